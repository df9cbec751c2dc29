"""Runs jobs at the same time, each with its share of the machine."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hemnet.errors import HemnetError
from hemnet.loggers import AGENT
from hemnet.processes.signals import interruptible
from hemnet.sweeps.jobs import Job
from hemnet.wording import counted

POLL_SECONDS = 0.2
# Variables that make a process share another's W&B run or service, which jobs of a sweep must not.
SHARED_WANDB = (*AGENT, "WANDB_SERVICE")


@dataclass(frozen=True)
class Slot:
    """A share of the machine, used by one job at a time.

    Attributes:
        threads: the number of threads of numerical libraries.
        devices: the value of CUDA_VISIBLE_DEVICES; None leaves that variable unchanged.
    """

    threads: int
    devices: str | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a job in this slot."""
        variables = {"OMP_NUM_THREADS": str(self.threads)} | os.environ
        if self.devices is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.devices
        return {name: value for name, value in variables.items() if name not in SHARED_WANDB}


def make_slots(
    parallel: int | None, devices: Sequence[int | str] | None, *, gpu: bool, per_job: int
) -> list[Slot]:
    """Divide the machine into slots.

    Args:
        parallel: the largest number of jobs at a time; None is as many as there are GPUs for, or 1 on CPU.
        devices: the GPUs to use; None is all visible ones.
        gpu: whether the jobs run on GPUs.
        per_job: how many GPUs, or processes on CPU, one job needs.

    Raises:
        HemnetError: ``parallel`` is below 1, or there are not enough GPUs for one job.
    """
    if parallel is not None and parallel < 1:
        raise HemnetError(f"hydra.launcher.parallel is {parallel}: it must be at least 1, or null")
    if not gpu:
        count = parallel or 1
        return [Slot(max(1, (os.cpu_count() or 1) // (count * per_job)))] * count
    ids = [str(device) for device in (_visible() if devices is None else devices)]
    groups = [ids[i : i + per_job] for i in range(0, len(ids) - per_job + 1, per_job)]
    if not groups:
        raise HemnetError(
            f"a job needs {counted(per_job, 'GPU')} and there are {len(ids)}: set trainer.devices, "
            "hydra.launcher.devices or trainer=cpu"
        )
    used = groups[: parallel or len(groups)]
    threads = max(1, (os.cpu_count() or 1) // (len(used) * per_job))
    return [Slot(threads, ",".join(group)) for group in used]


def _visible() -> list[str]:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def run_jobs(
    jobs: Iterable[Job],
    slots: Sequence[Slot],
    changed: Callable[[], None],
    ended: Callable[[Job], None] = lambda _: None,
) -> None:
    """Run jobs in their order, as slots become free; a job that fails does not affect the others.

    Args:
        jobs: the jobs; the next one is only taken from the iterable when a slot is free.
        slots: the slots, one for each job that runs at a time.
        changed: called regularly, and whenever a job has started or ended.
        ended: called with each job that has ended by itself.

    Raises:
        Interrupted: a signal asked to stop; the running jobs have been interrupted too.
    """
    waiting = iter(jobs)
    running: list[tuple[Job, Slot]] = []
    free = list(slots)
    with interruptible():
        try:
            while True:
                while free and (job := next(waiting, None)) is not None:
                    try:
                        job.start(free[0].environment())
                    except OSError as error:  # a file stands where its folder should be, for example
                        job.status, job.error = "failed", f"{job.path} cannot be written ({error})"
                        ended(job)
                        continue
                    running.append((job, free.pop(0)))
                changed()
                if not running:
                    break
                time.sleep(POLL_SECONDS)
                for job, slot in list(running):
                    if job.poll():
                        running.remove((job, slot))
                        free.append(slot)
                        ended(job)
        finally:
            for job, _ in running:  # all first, so that they save at the same time
                job.interrupt()
            for job, _ in running:
                job.stop()
            changed()
