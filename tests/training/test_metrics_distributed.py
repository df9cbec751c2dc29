"""The confusion matrix over two processes is that of one process with all batches."""

from pathlib import Path

import torch
import torch.multiprocessing as mp
from _helpers.gloo import process_group
from torch import Tensor

from hemnet.training.metrics import ConfusionMatrix

RANKS, CLASSES = 2, 5


def share(rank: int) -> list[tuple[Tensor, Tensor]]:
    """Prediction and mask of each batch of a rank; ranks differ in the number of batches and in classes."""
    generator = torch.Generator().manual_seed(rank)
    shape, known = (3 + rank, 5), 3 + 2 * rank
    return [
        tuple(torch.randint(0, known, shape, generator=generator) for _ in range(2))
        for _ in range(1 + 2 * rank)
    ]


def counted(batches: list[tuple[Tensor, Tensor]]) -> ConfusionMatrix:
    metric = ConfusionMatrix(CLASSES)
    for prediction, target in batches:
        metric.update(prediction, target)
    return metric


def worker(rank: int, folder: str) -> None:
    with process_group(rank, RANKS, folder):
        metric = counted(share(rank))
        torch.save((metric.compute(), metric.matrix), f"{folder}/matrix_{rank}.pt")


def test_two_processes_agree_with_one(tmp_path: Path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=RANKS)
    whole = counted(share(0) + share(1)).compute()
    assert whole.sum() == 15 + 3 * 20
    for rank in range(RANKS):
        synced, own = torch.load(tmp_path / f"matrix_{rank}.pt")
        assert synced.dtype == torch.int64
        assert torch.equal(synced, whole)
        assert torch.equal(own, counted(share(rank)).compute()), "computing must not add the others' counts"
