"""A sweep: runs the jobs that are not finished, and reports on all."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from hemnet.errors import HemnetError
from hemnet.processes.ranks import asked_devices
from hemnet.runs.identity import differences
from hemnet.runs.redaction import redacted
from hemnet.runs.run import Run
from hemnet.sweeps.board import Board
from hemnet.sweeps.jobs import CONSOLE, Job
from hemnet.sweeps.pool import Slot, make_slots, run_jobs
from hemnet.wording import counted, shortened


def run_sweep(
    jobs: Sequence[Job],
    configs: Sequence[DictConfig],
    folder: Path,
    parallel: int | None,
    devices: Sequence[int | str] | None,
) -> None:
    """Run the jobs that are not finished, show their state, and report failures.

    Args:
        jobs: the jobs; two with the same overrides and directory are one.
        configs: the configuration of each job.
        folder: the folder of the sweep.
        parallel: the largest number of jobs at a time, see `hemnet.sweeps.pool.make_slots`.
        devices: the GPUs to use, see `hemnet.sweeps.pool.make_slots`.

    Raises:
        HemnetError: jobs failed, and the message names them and their errors; or two different jobs have the
            same directory.
    """
    _require_places_of_their_own(jobs)
    for job, config in zip(jobs, configs, strict=True):
        _skip_if_finished(job, config)
    run_and_report(jobs, slots_for(configs[0], parallel, devices), folder)


def run_and_report(jobs: Sequence[Job], slots: Sequence[Slot], folder: Path) -> None:
    """Run the jobs with status ``waiting``, show the state of all, and report failures.

    Args:
        jobs: all jobs, those that are over included.
        slots: the slots, one for each job that runs at a time.
        folder: the folder for jobs.csv.

    Raises:
        HemnetError: jobs failed; the message names them and their errors.
    """
    at_a_time = f", {len(slots)} at a time" if slots else ""
    print(f"{counted(len(jobs), 'job')}{at_a_time}, in {folder}", flush=True)
    with Board(jobs, folder) as board:
        run_jobs((job for job in jobs if job.status == "waiting"), slots, board.update)
    _report(jobs, folder)


def slots_for(config: DictConfig, parallel: int | None, devices: Sequence[int | str] | None) -> list[Slot]:
    """Return the slots of `make_slots` for jobs with this configuration's trainer."""
    trainer = config.trainer
    per_job = asked_devices(trainer.devices) or 1
    return make_slots(parallel, devices, gpu=trainer.accelerator != "cpu", per_job=per_job)


def _require_places_of_their_own(jobs: Sequence[Job]) -> None:
    places: dict[Path, Job] = {}
    for job in jobs:
        other = places.setdefault(job.path, job)
        if differing := sorted({*job.overrides} ^ {*other.overrides}):
            raise HemnetError(
                f"two jobs have the directory {job.path}: they differ only in {', '.join(differing)}, which "
                "its name does not contain. Add hydra.sweep.subdir='${hydra.job.num}'"
            )


def _skip_if_finished(job: Job, config: DictConfig) -> None:
    if not (job.path / "config.yaml").is_file():
        return
    run = Run.open(job.path)
    # If a finished run has another configuration, the job is started, and fails with an error that says so.
    if run.status == "finished" and not differences(run.config, redacted(config)):
        job.status = "skipped"


def _report(jobs: Sequence[Job], folder: Path) -> None:
    counts = Counter(job.status for job in jobs)
    print(f"{', '.join(f'{count} {status}' for status, count in counts.items())}; {folder / 'jobs.csv'}")
    if any(folder.glob("*/wandb/offline-run-*")):
        print(f"upload the W&B runs with `wandb sync {shlex.quote(str(folder))}/*/wandb/offline-run-*`")
    failed = [job for job in jobs if job.status == "failed"]
    for job in failed:
        if trace := job.trace:
            print(f"\n--- {job.name}: the end of {job.path / CONSOLE}")
            print("\n".join(trace))
    if failed:
        raise HemnetError(
            f"{len(failed)} of {counted(len(jobs), 'job')} failed:\n  {failures(failed)}\n"
            "The same command runs only these again"
        )


def failures(jobs: Sequence[Job]) -> str:
    """Return the error of each failed job, a line each; jobs that failed for the same reason share one."""
    names: dict[str, list[str]] = {}
    for job in jobs:
        if job.status == "failed":
            names.setdefault(job.error, []).append(job.name)
    return "\n  ".join(f"{shortened(failed)}: {error}" for error, failed in names.items())
