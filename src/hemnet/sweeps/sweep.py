"""A sweep: jobs, of which some are finished, run and reported."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from hemnet.errors import HemnetError
from hemnet.runs.identity import differences
from hemnet.runs.redaction import redacted
from hemnet.runs.run import Run
from hemnet.sweeps.board import Board
from hemnet.sweeps.jobs import CONSOLE, Job
from hemnet.sweeps.pool import Slot, make_slots, run_jobs

TRACEBACK_LINES = 25


def run_sweep(
    jobs: Sequence[Job],
    configs: Sequence[DictConfig],
    folder: Path,
    parallel: int | None,
    devices: Sequence[int | str] | None,
) -> None:
    """Run the jobs that are not finished, show how they stand, and report those that fail.

    Args:
        jobs: to run; two of one name are one.
        configs: theirs.
        folder: of the sweep.
        parallel: see `hemnet.sweeps.pool.make_slots`.
        devices: see there.

    Raises:
        HemnetError: jobs failed; the message names them and says how they ended. Or jobs that differ would be
            in one directory.
    """
    _require_places_of_their_own(jobs)
    for job, config in zip(jobs, configs, strict=True):
        _skip_if_finished(job, config)
    run_and_report(jobs, slots_for(configs[0], parallel, devices), folder)


def run_and_report(jobs: Sequence[Job], slots: Sequence[Slot], folder: Path) -> None:
    """Run the jobs that wait, show how all stand, and report those that fail.

    Args:
        jobs: those to run, and those that are over.
        slots: how many run at a time, and where.
        folder: where jobs.csv is kept.

    Raises:
        HemnetError: jobs failed; the message names them and says how they ended.
    """
    at_a_time = f", {len(slots)} at a time" if slots else ""
    print(f"{len(jobs)} jobs{at_a_time}, in {folder}", flush=True)
    with Board(jobs, folder) as board:
        run_jobs((job for job in jobs if job.status == "waiting"), slots, board.update)
    _report(jobs, folder)


def slots_for(config: DictConfig, parallel: int | None, devices: Sequence[int | str] | None) -> list[Slot]:
    """Divide the machine among jobs with this configuration's trainer, as `make_slots` does."""
    trainer = config.trainer
    per_job = trainer.devices if isinstance(trainer.devices, int) and trainer.devices > 0 else 1
    return make_slots(parallel, devices, gpu=trainer.accelerator != "cpu", per_job=per_job)


def _require_places_of_their_own(jobs: Sequence[Job]) -> None:
    places: dict[Path, Job] = {}
    for job in jobs:
        other = places.setdefault(job.path, job)
        if differing := sorted({*job.overrides} ^ {*other.overrides}):
            raise HemnetError(
                f"two jobs would be in the directory {job.path}, since they differ in {', '.join(differing)} "
                "alone, by which no directory is named: add hydra.sweep.subdir='${hydra.job.num}'"
            )


def _skip_if_finished(job: Job, config: DictConfig) -> None:
    if not (job.path / "config.yaml").is_file():
        return
    run = Run.open(job.path)
    # One that is finished but was made with another configuration will say so when it is started.
    if run.status == "finished" and not differences(run.config, redacted(config)):
        job.status = "skipped"


def _report(jobs: Sequence[Job], folder: Path) -> None:
    counts = Counter(job.status for job in jobs)
    print(f"{', '.join(f'{count} {status}' for status, count in counts.items())}; {folder / 'jobs.csv'}")
    if any(folder.glob("*/wandb/offline-run-*")):
        print(f"upload the W&B runs with `wandb sync {shlex.quote(str(folder))}/*/wandb/offline-run-*`")
    failed = [job for job in jobs if job.status == "failed"]
    for job in failed:
        print(f"\n--- {job.name}: the end of {job.path / CONSOLE}")
        print("\n".join(job.console[-TRACEBACK_LINES:]))
    if failed:
        names = "\n  ".join(f"{job.name}: {job.error}" for job in failed)
        raise HemnetError(
            f"{len(failed)} of {len(jobs)} jobs failed:\n  {names}\n"
            "The same command runs them again, and them alone"
        )
