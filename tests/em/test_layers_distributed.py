"""HighwayEM on two ranks: the means are the same on both, and those of one process with the whole batch."""

from pathlib import Path

import torch
import torch.distributed as dist
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


def lonely_worker(rank: int, folder: str) -> None:
    """Rank 0 takes two steps, rank 1 one; layers of their own, so neither waits for the other."""
    with process_group(rank, RANKS, folder):
        torch.manual_seed(rank)
        network = nn.Sequential(HighwayEM(CHANNELS, 3, process_group=None), nn.Conv2d(CHANNELS, 2, 1))
        train(network, [shares(step)[rank] for step in range(2 - rank)])
        pair = HighwayEM(CHANNELS, 3, process_group=dist.new_group([0, 1]))
        before = pair.means.clone()
        pair(shares(rank)[1][0])
        pair.update()
        torch.save((network[0].means, pair.means - pair.momentum * before), f"{folder}/means_{rank}.pt")


def test_a_process_group_says_over_which_ranks_means_are_averaged(tmp_path: Path):
    mp.spawn(lonely_worker, args=(str(tmp_path),), nprocs=RANKS)
    for rank in range(RANKS):
        torch.manual_seed(rank)
        network = model()
        network[0].iterations = 3
        train(network, [shares(step)[rank] for step in range(2 - rank)])
        own, _ = torch.load(tmp_path / f"means_{rank}.pt")
        torch.testing.assert_close(own, network[0].means)
    first, second = (torch.load(tmp_path / f"means_{rank}.pt")[1] for rank in range(RANKS))
    torch.testing.assert_close(first, second)
