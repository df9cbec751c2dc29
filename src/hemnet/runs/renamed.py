"""Translates the names, keys and missing options of older versions' config.yaml to those of this version."""

import math
from typing import Any

from hemnet.runs.canonical import TARGET, class_name

# By their beginnings.
RENAMED = {
    "hemnet.callbacks.wandb_run.": "hemnet.loggers.wandb_run.",
    "hemnet.inference.": "hemnet.training.inference.",
    "hemnet.optim.HardPixels": "hemnet.training.loss.HardPixels",
    "hemnet.optim.": "hemnet.training.optim.",
    "hemnet.records.MetricsFile": "hemnet.loggers.metrics_file.MetricsFile",
    "hemnet.records.SafeCheckpoints": "hemnet.runs.checkpoint_io.SafeCheckpoints",
    "hemnet.training.optim.HardPixels": "hemnet.training.loss.HardPixels",
    "hemnet.task.": "hemnet.training.task.",
}

EM_HEAD = "hemnet.EMHead"
"""The heads with an EM layer, by `class_name`."""
# What `hemnet.nets.EMHead`, which needs torch, takes for an option that a configuration lacks: one that was
# added later, or that the user has removed.
HEAD_DEFAULTS = {
    "channels": 512, "num_components": 64, "iterations": 3, "highway_scale": 0.5, "assignment": "dot",
    "variance": None, "normalize": "none", "gradient": "unrolled", "engine": "auto", "acceleration": "none",
    "iterations_eval": None, "tolerance": None, "learn_scale": "none", "learn_variance": "none",
    "learn_prior": False, "means": "moving_average", "momentum": 0.9, "correct_momentum": False,
    "dropout": 0.1, "mask_padding": False,
}  # fmt: skip
# An option of the task that was added later: the value that stands for what was before.
TASK_DEFAULTS = {"float32_precision": "highest"}
LARGEST = 1e100  # of a number that a head may have; Python's whole numbers have no end


def with_present_names(node: Any) -> Any:
    """Return a tree of plain values of present names: in every ``_target_``, and in the options of heads.

    Options that a node lacks, of those in `HEAD_DEFAULTS` and `TASK_DEFAULTS`, are added. A variance that is
    what the head takes for null is null.
    """
    if isinstance(node, dict):
        named = {key: with_present_names(value) for key, value in node.items()}
        if isinstance(target := named.get(TARGET), str):
            old = next((old for old in RENAMED if target.startswith(old)), "")
            named[TARGET] = RENAMED.get(old, "") + target.removeprefix(old)
            if class_name(named[TARGET]) == EM_HEAD:
                _fold_implicit(named)
                named = HEAD_DEFAULTS | named
                named["variance"] = _variance(named)
            if named[TARGET] == "hemnet.training.task.SegmentationTask":
                _name_losses(named)
                named = TASK_DEFAULTS | named
        return named
    return [with_present_names(item) for item in node] if isinstance(node, list) else node


def _fold_implicit(head: dict[str, Any]) -> None:
    """Make `implicit`, once the settings of ``gradient: implicit`` beside it, the gradient mode itself.

    Other modes never read it, and null was its default.
    """
    settings = head.pop("implicit", None)
    if settings is not None and head.get("gradient") == "implicit":
        head["gradient"] = settings


def _variance(head: dict[str, Any]) -> Any:
    """Return the variance as a float; None if it is what None stands for, the root of the channels."""
    variance, channels = head["variance"], head["channels"]
    if not isinstance(variance, int | float) or isinstance(variance, bool) or abs(variance) > LARGEST:
        return variance
    known = isinstance(channels, int | float) and 0 <= channels <= LARGEST
    return None if known and math.isclose(variance, math.sqrt(channels)) else float(variance)


def _name_losses(task: dict[str, Any]) -> None:
    """Make of `hard_pixels`, once a loss in the place of cross-entropy, one of the losses by name."""
    if "hard_pixels" in task and "loss" not in task:
        hard = task.pop("hard_pixels")
        plain = {"_target_": "hemnet.training.loss.CrossEntropy", "factor": 1.0, "class_weights": None,
                 "label_smoothing": 0.0}  # fmt: skip
        task["loss"] = {"hard_pixels": hard | {"factor": 1.0}} if hard else {"cross_entropy": plain}
