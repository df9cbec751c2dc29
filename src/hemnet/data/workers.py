"""The worker processes of a data loader: how they start and end, and which signals and threads they use."""

import inspect
import multiprocessing
import sys
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from hemnet.data.transforms import Item
from hemnet.processes.children import die_with_parent, held, obey_parent_alone
from hemnet.processes.ranks import distributed
from hemnet.processes.signals import signals


class WorkerLoader(DataLoader[Item]):
    """A DataLoader whose workers can start while torch.distributed runs, and that only the loader stops.

    Args:
        dataset: as for DataLoader.
        num_workers: as for DataLoader, >= 0.
        options: further arguments of DataLoader, except those about workers.
    """

    def __init__(self, dataset: Any, *, num_workers: int, **options: Any) -> None:
        super().__init__(
            dataset,
            num_workers=num_workers,
            worker_init_fn=_begin,
            multiprocessing_context=_context() if num_workers else None,
            persistent_workers=num_workers > 0,
            **options,
        )

    def _get_iterator(self) -> Any:  # starts the workers
        with held(signals()):
            return super()._get_iterator()


def _context() -> BaseContext | None:
    """Return the multiprocessing context that starts the workers; None is torch's default, fork.

    A thread of torch.distributed takes a lock of the interpreter when it releases a tensor. A worker forked
    while the lock is held waits for it for ever, which befell a few in a hundred workers forked just after a
    collective operation. With torch.distributed, workers are therefore forked by a process without threads.
    """
    if not distributed() or sys.platform != "linux":
        return None
    context = multiprocessing.get_context("forkserver")
    # Imported once by the fork server, not by every worker: this module, and what the main module imported.
    main = sys.modules["__main__"]
    imported = {found.__name__ for value in vars(main).values() if (found := inspect.getmodule(value))}
    context.set_forkserver_preload(sorted({__name__, *imported} - {"__main__", main.__name__}))
    # Starting the resource tracker unblocks signals; so it starts now, before `held` blocks them.
    resource_tracker.ensure_running()
    return context


def _begin(worker_id: int) -> None:
    die_with_parent()
    obey_parent_alone(signals())
    # A worker is meant to use one core; more threads would slow the other workers down.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
