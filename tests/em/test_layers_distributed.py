"""HighwayEM on two ranks: the means are the same on both, and those of one process with the whole batch."""

from pathlib import Path

import torch
import torch.multiprocessing as mp
from _helpers.gloo import process_group
from torch import Tensor, nn

from hemnet.em import HighwayEM

CHANNELS = 5
RANKS = 2


def shares(step: int) -> list[list[Tensor]]:
    """Two micro-batches for each rank: 2 images for rank 0 (one, or at first none, finite), 4 for rank 1."""
    x = torch.randn(6, CHANNELS, 4, 3, generator=torch.Generator().manual_seed(step))
    x[0, 0, 0, 0] = torch.nan
    if step == 0:
        x[1] = torch.nan
    return [[x[:1], x[1:2]], [x[2:4], x[4:]]]


def model() -> nn.Sequential:
    return nn.Sequential(HighwayEM(CHANNELS, 3, iterations=2), nn.Conv2d(CHANNELS, 2, 1))


def train(network: nn.Module, micro_batches: list[list[Tensor]]) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    for parts in micro_batches:
        for part in parts:
            network(part).nansum().backward()
        optimizer.step()


def worker(rank: int, folder: str) -> None:
    with process_group(rank, RANKS, folder):
        torch.manual_seed(rank)  # rank 0's means must win
        network = model()
        train(nn.parallel.DistributedDataParallel(network), [shares(step)[rank] for step in range(3)])
        torch.save(network[0].means, f"{folder}/means_{rank}.pt")


def test_two_ranks_agree_with_one_process(tmp_path: Path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=RANKS)
    first, second = (torch.load(tmp_path / f"means_{rank}.pt") for rank in range(RANKS))
    torch.manual_seed(0)
    network = model()
    train(network, [[part for share in shares(step) for part in share] for step in range(3)])
    assert torch.equal(first, second)
    torch.testing.assert_close(first, network[0].means)
