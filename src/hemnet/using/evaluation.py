"""The evaluation of one run; what it writes and where, `hemnet.evaluate` says."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from hemnet.callbacks.evaluation_record import EvaluationRecord
from hemnet.callbacks.label_check import LabelCheck
from hemnet.config.build import build_evaluation_data, build_evaluator, build_inference, build_task, restore
from hemnet.config.command_line import SUMMARY, print_scores, print_sweep
from hemnet.config.machine import on_this_machine
from hemnet.config.trained import ITERATIONS, override
from hemnet.data import DataError, DatasetSpec, SegmentationData
from hemnet.data.readers import content_of, has_labels
from hemnet.em import HighwayEM
from hemnet.em.options import MOST
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.runs.evaluations import (
    CONTENT,
    FOLDER,
    at_iterations,
    digest_of,
    folder_for,
    require_own,
    write_iterations,
)
from hemnet.runs.identity import debugging
from hemnet.runs.outputs import READER, Origin, elsewhere
from hemnet.runs.provenance import device_name
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.destinations import named_by, require_writable
from hemnet.storage.files import entry
from hemnet.using.submission import Submission


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
            has no EM layer to iterate, the split has images alone and no submission is wanted; or a folder
            cannot be written to, or holds files that are not of this evaluation or submission.
    """
    run = Run.open(folder)
    config = override(run.config, assignments, "evaluate", ITERATIONS if iterations else ())
    inference = build_inference(config)
    origin = Origin.of(run, which, config, inference.settings)
    named = output or run.path / FOLDER / origin.name
    report = _Report(named, origin, iterations, [] if output else _pixels(run, origin))
    other_place = elsewhere(run.config, config)
    run.config = config = on_this_machine(config, assignments)
    network, spec = restore(run, which)
    _check_iterations(network, iterations, submission)
    data = build_evaluation_data(config)
    spec.require_same_classes(data.spec)
    reader = data.val_dataset.reader
    labelled = _has_labels(data, submission)
    task = build_task(config, network, spec)
    task.inference = inference
    content = {CONTENT: content_of(reader)} if other_place or submission else {}
    masks = submission and Submission(
        submission, split_name(config), spec, origin, iterations=[*iterations], **content
    )
    record = EvaluationRecord(worst, masks.write if masks else None, json.dumps(origin.record()))
    labels = LabelCheck()
    trainer = build_evaluator(config, [record, *([labels] if labelled else [])])
    about = {"overrides": list(assignments), "inference": asdict(inference), "worst": worst}
    report.about |= content | about | {"device": device_name(config.trainer.accelerator)}
    report.title = f"{split_name(config)} split of {data.spec.name}"
    found: dict[int | None, dict[str, float]] = {}
    try:
        for count in report.counts:
            set_iterations(network, count)
            started = time.monotonic()
            (scores,) = trainer.validate(task, datamodule=data, verbose=False)
            found[count] = dict(scores)
            if trainer.is_global_zero:
                report.write(count, record, spec, found[count], time.monotonic() - started, labels.warnings)
    finally:
        if trainer.is_global_zero and labelled:  # also if the files cannot be written
            _print(found, spec, report.heading(record))
    if trainer.is_global_zero:
        report.conclude()
    return found[report.counts[-1]]


class _Report:
    """The files of an evaluation, with one or several numbers of EM iterations.

    Args:
        place: the folder.
        origin: of the evaluation.
        iterations: the numbers of EM iterations; none means the T of the run.
        pixels: the labelled pixels of each class in the run's own validation split; [] if it did not say.

    Attributes:
        place: the folder; once images are known, possibly one beside it, see `folder_for`.
        counts: the numbers of EM iterations, None standing for the T of the run.
        about: what every result.json says.
        title: which images are evaluated.

    Raises:
        HemnetError: the folder cannot be written to, or holds files of something else.
    """

    def __init__(
        self, place: Path, origin: Origin, iterations: Sequence[int], pixels: Sequence[float]
    ) -> None:
        self.origin, self.iterations, self.pixels = origin, iterations, pixels
        self.counts: Sequence[int | None] = iterations or [None]
        self.about, self.title = origin.record(), ""
        self._move(place)

    def _move(self, place: Path) -> None:
        self.place = place
        with named_by("--output", place):
            for count in self.counts:
                require_writable(at_iterations(place, count), folder=True)
        require_own(place, self.origin, self.iterations)

    def heading(self, record: EvaluationRecord) -> str:
        """Return what tells this evaluation from others: on the terminal, and above its figures."""
        about, images = self.origin, len(record.images)
        return f"{about.experiment}, seed {about.seed}, {about.name}; {images} images of the {self.title}"

    def write(
        self,
        count: int | None,
        record: EvaluationRecord,
        spec: DatasetSpec,
        scores: Mapping[str, float],
        seconds: float,
        warnings: Sequence[str],
    ) -> None:
        """Write the files of the evaluation with ``count`` iterations; None is the T of the run.

        Raises:
            HemnetError: they cannot be written; or the folder beside the named one, for these images, holds
                files of something else.
        """
        pixels = record.matrix.sum(1).tolist()
        images = digest_of([score.name for score in record.images], pixels)
        others = bool(self.pixels) and self.pixels != pixels
        if (place := folder_for(self.place, images, others=others)) != self.place:
            self._move(place)
        result = self.about | {"iterations_eval": count, "images": images["images"], "data": images}
        result |= {"seconds": round(seconds, 1), "metrics": scores}
        if warnings:
            result["warnings"] = list(warnings)
        title = self.heading(record) + ("" if count is None else f", T = {count}")
        with named_by("--output", folder := at_iterations(self.place, count)):
            record.write(folder, spec, result, title)

    def conclude(self) -> None:
        """Write the table of all T, and say where the files are.

        Raises:
            HemnetError: the table cannot be written.
        """
        if self.iterations:
            with named_by("--output", self.place):
                write_iterations(self.place, self.origin.digest, [*SUMMARY.values(), "val/loss"])
        print(f"written to {self.place}")


def _print(found: Mapping[int | None, Mapping[str, float]], spec: DatasetSpec, title: str) -> None:
    """Print the scores by number of iterations."""
    if None in found:
        print_scores(found[None], spec.classes, title)
    elif found:
        print_sweep(found, title)


def _pixels(run: Run, origin: Origin) -> list[float]:
    """Return the labelled pixels by class of the split that a run was scored on; [] if that tells nothing.

    It does not if the folder's name says that the images are others, or if the run was scored on some only.
    """
    named = any(key.startswith(READER) for key in origin.changes)
    pixels = entry(run.result, "labelled_pixels", {})
    counts = [entry(pixels, name, -1.0) for name in pixels]
    return [] if named or debugging(run.config) or -1 in counts else counts


def _has_labels(data: SegmentationData, submission: Path | None) -> bool:
    labelled = has_labels(data.val_dataset.reader)
    if not labelled and submission is None:
        raise DataError(
            f"the evaluation split of {data.spec.name} has images alone, so nothing can be scored; choose "
            "a split with masks, write a submission with --voc-submission, or use hemnet predict"
        )
    return labelled


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
