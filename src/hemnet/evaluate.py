"""Score a trained network on the validation split of its data set: ``python -m hemnet.evaluate RUN``.

Written to RUN/evaluation/CHECKPOINT[-how the network was run]/, or with --iterations to a folder T<n> in it
for each number of EM iterations: result.json, classes.csv, images.csv, confusion.png, worst.png.
"""

import argparse
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from hemnet.callbacks.evaluation_record import EvaluationRecord
from hemnet.cli import (
    SUMMARY,
    add_run_arguments,
    log_to_terminal,
    override,
    parse,
    print_scores,
    print_sweep,
    run_entry,
)
from hemnet.compose import build_data, build_evaluator, build_inference, build_task, restore
from hemnet.data import DatasetSpec
from hemnet.em import HighwayEM
from hemnet.errors import HemnetError
from hemnet.figures import confusion_figure, predictions_page
from hemnet.files import write_table
from hemnet.inference import PLAIN, Inference
from hemnet.metrics import iou, recall
from hemnet.nets import Segmenter
from hemnet.provenance import device_name
from hemnet.ranks import rank
from hemnet.runs import Checkpoint, Run, write_json

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
    """Return the scores of a run's checkpoint, and write a report of them.

    Args:
        folder: the run.
        which: the checkpoint.
        assignments: ``key=value`` changes to the run's config; ``inference.*`` is how the network is run.
        iterations: EM iterations T to evaluate with, one after another; none means what the run has. The
            scores of the last one are returned.
        output: where to write; None is a folder in the run, named by checkpoint and inference.
        worst: how many of the worst images to show.
        submission: where to write a folder for the PASCAL VOC test server; None writes none.

    Raises:
        hemnet.errors.HemnetError: there is no such run, checkpoint or data, the classes differ, or the
            network has no EM layer to iterate.
    """
    run = Run.open(folder)
    config = override(run.config, assignments)
    network, spec = restore(run, which)
    _check_iterations(network, iterations, submission)
    data = build_data(config)
    spec.require_same_classes(data.spec)
    task = build_task(config, network, spec)
    task.inference = build_inference(config)
    record = EvaluationRecord(worst, submission and _submission_folder(submission, config, spec))
    trainer = build_evaluator(config, [record])
    output = output or run.path / "evaluation" / folder_name(which, task.inference)
    title = f"{run.config.name}, seed {run.config.seed}, {output.name}"
    what = {"checkpoint": which, "overrides": list(assignments), "inference": asdict(task.inference)}
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
                _write_report(output if count is None else output / f"T{count}", result, record, spec)
            except OSError as error:
                raise HemnetError(f"cannot write to {output} ({error}): choose another --output") from error
    if trainer.is_global_zero:
        _conclude(found, spec, output, title)
    return found[counts[-1]]


def set_iterations(network: Segmenter, count: int | None) -> None:
    """Let every EM layer take ``count`` iterations in evaluation mode; None leaves them as they are."""
    for module in network.modules():
        if count is not None and isinstance(module, HighwayEM):
            module.iterations_eval = count


def folder_name(which: Checkpoint, inference: Inference) -> str:
    """Return a name that says what was evaluated: the checkpoint, and each way in which it was not plain."""
    parts: list[str] = [which]
    for item in fields(inference):
        value, default = getattr(inference, item.name), getattr(PLAIN, item.name)
        if isinstance(value, Sequence):
            value, default = tuple(value), default and tuple(default)
        if value == default:
            continue
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        parts += [item.name, *(f"{number:g}" for number in values)]
    return "-".join(parts)


def _check_iterations(network: Segmenter, iterations: Sequence[int], submission: Path | None) -> None:
    if not iterations:
        return
    if not any(isinstance(module, HighwayEM) for module in network.modules()):
        raise HemnetError("this network has no EM layer: leave --iterations out, or name a run that has one")
    if min(iterations) < 0 or len(set(iterations)) < len(iterations):
        raise HemnetError(f"--iterations {' '.join(map(str, iterations))}: give different numbers, 0 or more")
    if submission is not None and len(iterations) > 1:
        raise HemnetError("a submission has one prediction per image: give --iterations one number")


def _submission_folder(root: Path, config: DictConfig, spec: DatasetSpec) -> Path:
    """Make the folder that the server expects, "comp5": trained on the data of the challenge alone."""
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


def _write_report(place: Path, result: dict[str, Any], record: EvaluationRecord, spec: DatasetSpec) -> None:
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / "result.json", result)
    matrix = torch.from_numpy(record.matrix)
    columns = zip(
        spec.classes, iou(matrix).tolist(), recall(matrix).tolist(), record.matrix.sum(1), strict=True
    )
    rows = [[name, _cell(iou_k), _cell(recall_k), pixels] for name, iou_k, recall_k, pixels in columns]
    write_table(place / "classes.csv", ["class", "iou", "accuracy", "pixels"], rows)
    images = [[score.name, _cell(score.miou), _cell(score.pixel_accuracy)] for score in record.images]
    write_table(place / "images.csv", ["image", "miou", "pixel_accuracy"], images)
    confusion_figure(record.matrix, spec, place / "confusion.png")
    (place / "worst.png").unlink(missing_ok=True)  # that of an evaluation before
    if record.rows:
        predictions_page(record.rows, spec, place / "worst.png")


def _conclude(
    found: Mapping[int | None, Mapping[str, float]], spec: DatasetSpec, output: Path, title: str
) -> None:
    if None in found:
        print_scores(found[None], spec.classes, title)
    else:
        _write_sweep(found, output, title)
    print(f"written to {output}")


def _write_sweep(found: Mapping[int | None, Mapping[str, float]], output: Path, title: str) -> None:
    keys = [*SUMMARY.values(), "val/loss"]
    rows = [[count, *(_cell(scores[key]) for key in keys)] for count, scores in found.items()]
    write_table(output / "iterations.csv", ["iterations", *keys], rows)
    print_sweep(found, title)


def _cell(score: float) -> str:
    """Return a score, or an empty cell for a class or image that has none."""
    return "" if math.isnan(score) else f"{score:.6f}"


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="python -m hemnet.evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_run_arguments(parser)
    parser.add_argument("--iterations", nargs="+", type=int, default=[], metavar="T",
                        help="evaluate with each of these numbers of EM iterations")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--worst", type=int, default=8, metavar="N", help="images on worst.png; default: 8")
    parser.add_argument("--voc-submission", type=Path, metavar="DIR",
                        help="write a results/ folder for the PASCAL VOC test server to DIR")  # fmt: skip
    options, assignments = parse(parser)
    log_to_terminal()
    evaluate(
        options.run,
        options.checkpoint,
        assignments,
        iterations=options.iterations,
        output=options.output,
        worst=options.worst,
        submission=options.voc_submission,
    )


if __name__ == "__main__":
    run_entry(_entry)
