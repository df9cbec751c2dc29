"""The worker processes of a loader: how they are started, whom they obey, and what they may take."""

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
    """A DataLoader whose workers start beside torch.distributed too, and are stopped by it alone.

    Args:
        dataset: as DataLoader's.
        num_workers: as DataLoader's, >= 0.
        options: DataLoader's others, but those of its workers.
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

    def _get_iterator(self) -> Any:  # which starts the workers
        with held(signals()):
            return super()._get_iterator()


def _context() -> BaseContext | None:
    """Return what starts the workers; None is torch's way.

    A thread of torch.distributed that lets go of a tensor takes a lock of the interpreter. A worker that is
    forked in that moment waits for it for ever: a few in a hundred that are forked just after a collective
    operation. Beside torch.distributed, a process without such threads forks them.
    """
    if not distributed() or sys.platform != "linux":
        return None
    context = multiprocessing.get_context("forkserver")
    # What each worker would import by itself otherwise: this, and what the main module has imported.
    main = sys.modules["__main__"]
    imported = {found.__name__ for value in vars(main).values() if (found := inspect.getmodule(value))}
    context.set_forkserver_preload(sorted({__name__, *imported} - {"__main__", main.__name__}))
    # When this has started it lets signals through, also where they are held, as when the server starts.
    resource_tracker.ensure_running()
    return context


def _begin(worker_id: int) -> None:
    die_with_parent()
    obey_parent_alone(signals())
    # One worker is one core: threads within it would only fight those of the others.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
