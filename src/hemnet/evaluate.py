"""Score a trained network on the validation split of its data set: ``python -m hemnet.evaluate RUN``."""

import argparse
from pathlib import Path

from hemnet.cli import log_to_terminal, override, print_scores, run_entry
from hemnet.compose import build_data, build_evaluator, build_task, restore
from hemnet.runs import Checkpoint, Run, write_json


def evaluate(folder: str | Path, which: Checkpoint, assignments: list[str]) -> dict[str, float]:
    """Return the scores of a run's checkpoint, and write them beside it as ``evaluation_<which>.json``.

    Raises:
        hemnet.errors.HemnetError: there is no such run, checkpoint or data, or the classes differ.
    """
    run = Run.open(folder)
    config = override(run.config, assignments)
    network, spec = restore(run, which)
    data = build_data(config)
    spec.require_same_classes(data.spec)
    task = build_task(config, network, spec)
    (scores,) = build_evaluator(config).validate(task, datamodule=data, verbose=False)
    path = run.path / f"evaluation_{which}.json"
    write_json(path, {"checkpoint": which, "overrides": assignments, "metrics": scores})
    print_scores(scores, spec.classes, f"{run.config.name}, seed {run.config.seed}, {which} checkpoint")
    print(f"written to {path}")
    return dict(scores)


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="python -m hemnet.evaluate", description=__doc__)
    parser.add_argument("run", help="run directory, such as runs/synthetic_hem/20260101-120000-a1b2c3")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="default: last")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the run's config, "
                        "such as data.root=FOLDER or trainer.accelerator=gpu")  # fmt: skip
    options = parser.parse_args()
    log_to_terminal()
    evaluate(options.run, options.checkpoint, options.overrides)


if __name__ == "__main__":
    run_entry(_entry)
