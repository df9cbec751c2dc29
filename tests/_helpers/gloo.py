"""A gloo process group over a file, for the tests that run as several processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from _helpers.waiting import CEILING


@contextmanager
def process_group(rank: int, world_size: int, folder: str) -> Iterator[None]:
    """Join the processes that meet in `folder`, with one thread each.

    A Lightning trainer made in here, with `devices=world_size, strategy="ddp"`, is of this group too.
    """
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # tells Lightning that it is not to start processes
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=CEILING),  # a busy machine may start one process minutes after the other
    )
    try:
        yield
        dist.barrier()  # none leaves while another still waits for it
    finally:
        dist.destroy_process_group()
