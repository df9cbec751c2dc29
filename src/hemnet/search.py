"""Search for settings with Optuna.

``experiments/searches/NAME.yaml`` defines the search. Each trial is a training run in its own process. The
same command continues a search that was stopped.
"""

import hemnet.lab

import argparse
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from hemnet.config.command_line import run_entry
from hemnet.config.paths import recipe
from hemnet.storage.files import hold
from hemnet.sweeps.board import Board
from hemnet.sweeps.pool import run_jobs
from hemnet.sweeps.sweep import failures, slots_for
from hemnet.sweeps.trials import Search


def search(name: str, assignments: Sequence[str], *, trials: int | None, parallel: int | None) -> Search:
    """Start or continue a search until it has its number of trials; print the best trial.

    Args:
        name: the search, ``experiments/searches/NAME.yaml``.
        assignments: ``key=value`` for every trial; ``runs=FOLDER`` sets where the runs are written.
        trials: the total number of trials; None takes it from the file.
        parallel: how many trials to run at a time, see `hemnet.sweeps.pool.make_slots`.

    Raises:
        HemnetError: the search is unknown or its file is wrong, another process runs it, its study is of
            other settings, or no trial has a score.
    """
    content = OmegaConf.load(recipe("searches", name))
    assert isinstance(content, DictConfig)
    found = Search(name, content, assignments)
    busy = f"another search is running in {found.folder}: wait for it or stop it"
    with hold(found.folder / ".lock", busy), Board(found.jobs, found.folder) as board:
        slots = slots_for(found.config, parallel, None)
        run_jobs(found.jobs_to_run(trials or found.trials), slots, board.update, found.tell)
    best = found.best()
    if failed := failures(found.jobs):
        print(f"failed trials, which count nowhere:\n  {failed}")
    settings = " ".join(f"{key}={value}" for key, value in best.params.items())
    print(
        f"best of {len(found._study.trials)}: val/miou {best.value:.4f}, trial-{best.number:04d}: {settings}"
    )
    return found


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet search", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the search, experiments/searches/NAME.yaml")
    parser.add_argument("--trials", type=int, help="number of trials in all, earlier ones included")
    parser.add_argument(
        "--parallel", type=int, help="trials at a time; default: as many as there are GPUs, or 1"
    )
    parser.add_argument("overrides", nargs="*", help="key=value for every trial, as hemnet train takes them")
    options = parser.parse_intermixed_args()
    search(options.name, options.overrides, trials=options.trials, parallel=options.parallel)


if __name__ == "__main__":
    run_entry(_entry)
