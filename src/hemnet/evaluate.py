"""Score trained networks on the validation split of their data sets: ``python -m hemnet.evaluate RUN``.

The results, result.json, classes.csv, images.csv, confusion.png and worst.png, are written to the folder
RUN/evaluation/CHECKPOINT[-inference options]/, or with --iterations to a folder T<n> in it for each number of
EM iterations.

Several runs, or folders of runs, are evaluated each in its own process, without repeating evaluations.
--sweep NAME takes runs and iterations from experiments/evaluations/NAME.yaml.
"""

import hemnet.lab

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from hemnet.config.command_line import (
    SUMMARY,
    add_run_arguments,
    log_to_terminal,
    override,
    parse,
    print_scores,
    print_sweep,
    run_entry,
)
from hemnet.errors import HemnetError
from hemnet.processes.ranks import rank
from hemnet.runs.checkpoints import fingerprint
from hemnet.runs.evaluations import FOLDER, at_iterations, folder_name, write_iterations
from hemnet.runs.provenance import device_name
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.places import absolute
from hemnet.sweeps.evaluate_runs import evaluate_runs, read_sweep

if TYPE_CHECKING:
    from hemnet.data import DatasetSpec
    from hemnet.nets import Segmenter

log = logging.getLogger(__name__)
VOC_CLASSES = 21


def evaluate(
    folder: str | Path,
    which: Checkpoint,
    assignments: Sequence[str],
    *,
    iterations: Sequence[int] = (),
    output: Path | None = None,
    worst: int = 8,
    submission: Path | None = None,
) -> dict[str, float]:
    """Evaluate a checkpoint of a run on its validation split; write a report and return the scores.

    Args:
        folder: the run directory.
        which: the checkpoint.
        assignments: ``key=value`` changes to the run's configuration; ``inference.*`` are inference options.
        iterations: numbers T of EM iterations to evaluate with, one after another; none means the T of the
            run. The scores of the last one are returned.
        output: the folder to write to; None is a folder in the run, named by checkpoint and inference.
        worst: how many of the worst images to show.
        submission: the folder in which to write a submission to the PASCAL VOC test server; None writes none.

    Raises:
        hemnet.errors.HemnetError: there is no such run, checkpoint or data, the classes differ, or the
            network has no EM layer to iterate.
    """
    # Imported here, since they take seconds, which --help and errors of the command line do without.
    from hemnet.callbacks.evaluation_record import EvaluationRecord
    from hemnet.config.build import build_data, build_evaluator, build_inference, build_task, restore

    run = Run.open(folder)
    config = override(run.config, assignments)
    checkpoint = run.checkpoint(which)
    known = fingerprint(checkpoint)
    network, spec = restore(run, which)
    _check_iterations(network, iterations, submission)
    data = build_data(config)
    spec.require_same_classes(data.spec)
    task = build_task(config, network, spec)
    task.inference = build_inference(config)
    record = EvaluationRecord(worst, submission and _submission_folder(submission, config, spec))
    trainer = build_evaluator(config, [record])
    output = output or run.path / FOLDER / folder_name(which, task.inference.settings, assignments)
    title = f"{run.config.name}, seed {run.config.seed}, {output.name}"
    what = {"checkpoint": which, "checkpoint_sha256": known, "overrides": list(assignments),
            "inference": asdict(task.inference)}  # fmt: skip
    found: dict[int | None, dict[str, float]] = {}
    counts: Sequence[int | None] = iterations or [None]
    for count in counts:
        set_iterations(network, count)
        started = time.monotonic()
        (scores,) = trainer.validate(task, datamodule=data, verbose=False)
        found[count] = dict(scores)
        if trainer.is_global_zero:
            result = what | {
                "iterations_eval": count,
                "images": len(record.images),
                "seconds": round(time.monotonic() - started, 1),
                "device": device_name(config.trainer.accelerator),
                "metrics": found[count],
            }
            try:
                record.write(at_iterations(output, count), spec, result)
            except OSError as error:
                raise HemnetError(f"cannot write to {output} ({error}): choose another --output") from error
    if trainer.is_global_zero:
        if iterations:
            write_iterations(output, checkpoint, [*SUMMARY.values(), "val/loss"])
        _conclude(found, spec, output, title)
    return found[counts[-1]]


def set_iterations(network: "Segmenter", count: int | None) -> None:
    """Set the number of iterations of every EM layer in evaluation mode; None changes nothing."""
    from hemnet.em import HighwayEM

    for module in network.modules():
        if count is not None and isinstance(module, HighwayEM):
            module.iterations_eval = count


def _check_iterations(network: "Segmenter", iterations: Sequence[int], submission: Path | None) -> None:
    from hemnet.em import HighwayEM

    if not iterations:
        return
    if not any(isinstance(module, HighwayEM) for module in network.modules()):
        raise HemnetError("this network has no EM layer: leave --iterations out, or name a run that has one")
    if min(iterations) < 0 or len(set(iterations)) < len(iterations):
        raise HemnetError(f"--iterations {' '.join(map(str, iterations))}: give different numbers, 0 or more")
    if submission is not None and len(iterations) > 1:
        raise HemnetError("a submission has one prediction per image: give --iterations one number")


def _submission_folder(root: Path, config: DictConfig, spec: "DatasetSpec") -> Path:
    """Create the folder that the server expects; "comp5" means training on the challenge's data only."""
    split = OmegaConf.select(config, "data.val.split") or "val"
    folder = root / "results" / "VOC2012" / "Segmentation" / f"comp5_{split}_cls"
    folder.mkdir(parents=True, exist_ok=True)
    if rank() == 0:
        if spec.num_classes != VOC_CLASSES:
            log.warning(
                "the VOC server scores %d classes, this network has %d", VOC_CLASSES, spec.num_classes
            )
        if split != "test":
            log.warning("the submission is of the %s split; the server takes test images", split)
        log.info("a palette PNG per image goes to %s", folder)
    return folder


def _conclude(
    found: Mapping[int | None, Mapping[str, float]], spec: "DatasetSpec", output: Path, title: str
) -> None:
    if None in found:
        print_scores(found[None], spec.classes, title)
    else:
        print_sweep(found, title)
    print(f"written to {output}")


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_run_arguments(parser, several=True)
    parser.add_argument("--iterations", nargs="+", type=int, default=[], metavar="T",
                        help="evaluate with each of these numbers of EM iterations")  # fmt: skip
    parser.add_argument("--worst", type=int, metavar="N",
                        help="images on worst.png; default: 8, and none of several runs")  # fmt: skip
    one = parser.add_argument_group("of one run")
    one.add_argument("--output", type=absolute, metavar="DIR", help="folder to write to")
    one.add_argument("--voc-submission", type=absolute, metavar="DIR",
                     help="write a results/ folder for the PASCAL VOC test server to DIR")  # fmt: skip
    many = parser.add_argument_group("of several runs")
    many.add_argument("--sweep", metavar="NAME", help="of experiments/evaluations/NAME.yaml")
    many.add_argument("--parallel", type=int, metavar="N",
                      help="runs at a time; default: as many as there are GPUs for, or 1 on CPU")  # fmt: skip
    options, assignments = parse(parser)
    log_to_terminal()
    folders, iterations = options.run, options.iterations
    if options.sweep:
        runs, depths = read_sweep(options.sweep)
        folders, iterations = folders or runs, iterations or depths
    if not folders:
        raise HemnetError("name a run directory, a folder of runs, or a sweep of evaluations with --sweep")
    if options.sweep is None and len(folders) == 1 and (folders[0] / "config.yaml").is_file():
        evaluate(folders[0], options.checkpoint, assignments, iterations=iterations, output=options.output,
                 worst=8 if options.worst is None else options.worst,
                 submission=options.voc_submission)  # fmt: skip
        return
    if options.output or options.voc_submission:
        raise HemnetError("--output and --voc-submission are for one run: name its directory alone")
    evaluate_runs(folders, options.checkpoint, assignments, iterations=iterations, parallel=options.parallel,
                  worst=options.worst or 0)  # fmt: skip


if __name__ == "__main__":
    run_entry(_entry)
