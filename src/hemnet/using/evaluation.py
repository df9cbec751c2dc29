"""The evaluation of one run; what it writes and where, `hemnet.evaluate` says."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hemnet.callbacks.evaluation_record import EvaluationRecord
from hemnet.callbacks.label_check import LabelCheck
from hemnet.config.build import build_evaluation_data, build_evaluator, build_inference, build_task, restore
from hemnet.config.command_line import SUMMARY, print_scores, print_sweep
from hemnet.config.machine import on_this_machine
from hemnet.config.trained import ITERATIONS, override
from hemnet.data import DataError, DatasetSpec, SegmentationData
from hemnet.data.readers import has_labels
from hemnet.em import HighwayEM
from hemnet.em.options import MOST
from hemnet.errors import HemnetError
from hemnet.figures.predictions import record_of
from hemnet.nets import Segmenter
from hemnet.processes.ranks import rank
from hemnet.runs.evaluations import (
    FOLDER,
    at_iterations,
    digest_of,
    folder_for,
    require_own,
    write_iterations,
)
from hemnet.runs.identity import debugging
from hemnet.runs.outputs import READER, Origin
from hemnet.runs.provenance import device_name
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.files import entry

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
    """Evaluate a checkpoint of a run on a split, by default that of validation; return the scores.

    A report is written, whose files the docstring of `hemnet.evaluate` names.

    Args:
        folder: the run directory.
        which: the checkpoint.
        assignments: ``key=value`` changes to the run's configuration; ``inference.*`` are inference options,
            ``data=NAME`` is another data set with the run's classes, ``data.val.split`` another split.
        iterations: numbers T of EM iterations to evaluate with, one after another; none means the T of the
            run. The scores of the last one are returned.
        output: the folder to write to; None is a folder in the run with the name of `Origin`. If it holds an
            evaluation on other images, the results go to a folder beside it, see `folder_for`.
        worst: how many of the worst images to show.
        submission: the folder in which to write a submission to the PASCAL VOC test server; None writes none.

    Raises:
        hemnet.errors.HemnetError: there is no such run, checkpoint or data, the classes differ, the network
            has no EM layer to iterate, the split has images alone and no submission is wanted, or the folder
            to write to holds the output of another origin.
    """
    run = Run.open(folder)
    config = override(run.config, assignments, "evaluate", ITERATIONS if iterations else ())
    inference = build_inference(config)
    origin = Origin.of(run, which, config, inference.settings)
    place = output or run.path / FOLDER / origin.name
    require_own(place, origin)
    run.config = config = on_this_machine(config, assignments)
    network, spec = restore(run, which)
    _check_iterations(network, iterations, submission)
    data = build_evaluation_data(config)
    spec.require_same_classes(data.spec)
    labelled = _has_labels(data, submission)
    task = build_task(config, network, spec)
    task.inference = inference
    masks = submission and _submission_folder(submission, config, spec, origin)
    record = EvaluationRecord(worst, masks, json.dumps(origin.record()))
    labels = LabelCheck()
    trainer = build_evaluator(config, [record, *([labels] if labelled else [])])
    about = origin.record() | {"overrides": list(assignments), "inference": asdict(inference)}
    about |= {"device": device_name(config.trainer.accelerator)}
    report = _Report(place, about, spec, [] if output else _pixels(run, origin))
    found: dict[int | None, dict[str, float]] = {}
    counts: Sequence[int | None] = iterations or [None]
    for count in counts:
        set_iterations(network, count)
        started = time.monotonic()
        (scores,) = trainer.validate(task, datamodule=data, verbose=False)
        found[count] = dict(scores)
        if trainer.is_global_zero:
            report.title = _title(config, origin, data.spec, len(record.images))
            about_it = {"seconds": round(time.monotonic() - started, 1), "metrics": found[count]}
            report.write(count, record, about_it, labels.warnings)
    if trainer.is_global_zero:
        if iterations:
            write_iterations(report.place, origin.digest, [*SUMMARY.values(), "val/loss"])
        report.conclude(found if labelled else {})
    return found[counts[-1]]


@dataclass
class _Report:
    """The files of an evaluation, with one or several numbers of EM iterations.

    Attributes:
        place: the folder; once images are known, possibly one beside it, see `folder_for`.
        about: what every result.json of it says.
        spec: the classes.
        pixels: the labelled pixels of each class in the run's own validation split; [] if it did not say.
        title: of figures, and on the terminal.
    """

    place: Path
    about: dict[str, Any]
    spec: DatasetSpec
    pixels: Sequence[int]
    title: str = ""

    def write(
        self, count: int | None, record: EvaluationRecord, result: dict[str, Any], warnings: Sequence[str]
    ) -> None:
        """Write the files of the evaluation with ``count`` iterations; None is the T of the run."""
        pixels = record.matrix.sum(1).tolist()
        images = digest_of([score.name for score in record.images], pixels)
        self.place = folder_for(self.place, images, others=bool(self.pixels) and self.pixels != pixels)
        result = self.about | {"iterations_eval": count, "images": images["images"], "data": images} | result
        if warnings:
            result["warnings"] = list(warnings)
        folder = at_iterations(self.place, count)
        try:
            title = self.title if count is None else f"{self.title}, T = {count}"
            record.write(folder, self.spec, result, title)
        except OSError as error:
            raise HemnetError(f"cannot write to {folder} ({error}): choose another --output") from error

    def conclude(self, found: Mapping[int | None, Mapping[str, float]]) -> None:
        """Print the scores by number of iterations, and where the files are."""
        if None in found:
            print_scores(found[None], self.spec.classes, self.title)
        elif found:
            print_sweep(found, self.title)
        print(f"written to {self.place}")


def _pixels(run: Run, origin: Origin) -> list[int]:
    """Return the labelled pixels by class of the split that a run was scored on; [] if that tells nothing.

    It does not if the folder's name says that the images are others, or if the run was scored on some only.
    """
    named = any(key.startswith(READER) for key in origin.changes)
    return [] if named or debugging(run.config) else [*entry(run.result, "labelled_pixels", {}).values()]


def _has_labels(data: SegmentationData, submission: Path | None) -> bool:
    labelled = has_labels(data.val_dataset.reader)
    if not labelled and submission is None:
        raise DataError(
            f"the evaluation split of {data.spec.name} has images alone, so nothing can be scored; choose "
            "a split with masks, write a submission with --voc-submission, or use hemnet predict"
        )
    return labelled


def _title(config: DictConfig, origin: Origin, data: DatasetSpec, images: int) -> str:
    """Return what tells this evaluation from others: on the terminal, and above its figures."""
    return (
        f"{origin.experiment}, seed {origin.seed}, {origin.name}; {images} images of the "
        f"{split_name(config)} split of {data.name}"
    )


def split_name(config: DictConfig) -> str:
    """Return the name of the split that is evaluated."""
    return str(OmegaConf.select(config, "data.val.split") or "val")


def set_iterations(network: Segmenter, count: int | None) -> None:
    """Set the number of iterations of every EM layer in evaluation mode; None changes nothing."""
    for module in network.modules():
        if count is not None and isinstance(module, HighwayEM):
            module.iterations_eval = count


def _check_iterations(network: Segmenter, iterations: Sequence[int], submission: Path | None) -> None:
    if not iterations:
        return
    if not any(isinstance(module, HighwayEM) for module in network.modules()):
        raise HemnetError("this network has no EM layer: leave --iterations out, or name a run that has one")
    if min(iterations) < 0 or max(iterations) > MOST or len(set(iterations)) < len(iterations):
        given = " ".join(map(str, iterations))
        raise HemnetError(f"--iterations {given}: give different numbers from 0 to {MOST}")
    if submission is not None and len(iterations) > 1:
        raise HemnetError("a submission has one prediction per image: give --iterations one number")


def _submission_folder(root: Path, config: DictConfig, spec: DatasetSpec, origin: Origin) -> Path:
    """Create the folder that the server expects; "comp5" means training on the challenge's data only.

    Raises:
        HemnetError: there are masks of another origin.
    """
    split = split_name(config)
    folder = root / "results" / "VOC2012" / "Segmentation" / f"comp5_{split}_cls"
    folder.mkdir(parents=True, exist_ok=True)
    if earlier := next(folder.glob("*.png"), None):
        origin.require_own(folder, record_of(earlier))
    if rank() == 0:
        if spec.num_classes != VOC_CLASSES:
            log.warning(
                "the VOC server scores %d classes, this network has %d", VOC_CLASSES, spec.num_classes
            )
        if split != "test":
            log.warning("the submission is of the %s split; the server takes test images", split)
        log.info("a palette PNG per image goes to %s", folder)
    return folder
