"""Workers that start beside the threads of torch.distributed, each of which takes a lock when it lets go."""

import faulthandler

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from _helpers.gloo import process_group
from _helpers.mosaic import mosaic_data

RANKS, SECONDS = 2, 60.0


def worker(rank: int, folder: str, starts: int) -> None:
    with process_group(rank, RANKS, folder):
        for _ in range(starts):
            # Their tensors are let go of by the threads that were at work on them, when they come to it.
            for work in [dist.all_reduce(torch.ones(1000), async_op=True) for _ in range(8)]:
                work.wait()
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            assert len(list(mosaic_data(workers=2).train_dataloader())) == 1
            faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize(
    "starts",
    [pytest.param(8, marks=pytest.mark.slow), pytest.param(60, marks=[pytest.mark.long, pytest.mark.slow])],
)
def test_workers_start_beside_collective_operations(starts: int, tmp_path) -> None:
    """Forked by a rank itself, a few in a hundred would wait for ever."""
    mp.spawn(worker, args=(str(tmp_path), starts), nprocs=RANKS)
