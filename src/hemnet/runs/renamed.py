"""Translates the names, keys and missing options of older versions' config.yaml to those of this version."""

import re
from typing import Any

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

# Options of heads with EM, and of the task, that were added later: the values that stand for what was before.
LATER = {"learn_variance": "none", "learn_prior": False, "mask_padding": False, "correct_momentum": False}
LATER_TASK = {"float32_precision": "highest"}


def with_present_names(node: Any) -> Any:
    """Return a tree of plain values of present names: in every ``_target_``, and in the options of heads."""
    if isinstance(node, dict):
        named = {key: with_present_names(value) for key, value in node.items()}
        if isinstance(target := named.get("_target_"), str):
            old = next((old for old in RENAMED if target.startswith(old)), "")
            named["_target_"] = RENAMED.get(old, "") + target.removeprefix(old)
            if re.fullmatch(r"hemnet\..*\.EMHead", named["_target_"]):
                _fold_implicit(named)
                named = LATER | named
            if named["_target_"] == "hemnet.training.task.SegmentationTask":
                _name_losses(named)
                named = LATER_TASK | named
        return named
    return [with_present_names(item) for item in node] if isinstance(node, list) else node


def _fold_implicit(head: dict[str, Any]) -> None:
    """Make `implicit`, once the settings of ``gradient: implicit`` beside it, the gradient mode itself.

    Other modes never read it, and null was its default.
    """
    settings = head.pop("implicit", None)
    if settings is not None and head.get("gradient") == "implicit":
        head["gradient"] = settings


def _name_losses(task: dict[str, Any]) -> None:
    """Make of `hard_pixels`, once a loss in the place of cross-entropy, one of the losses by name."""
    if "hard_pixels" in task and "loss" not in task:
        hard = task.pop("hard_pixels")
        plain = {"_target_": "hemnet.training.loss.CrossEntropy", "factor": 1.0, "class_weights": None,
                 "label_smoothing": 0.0}  # fmt: skip
        task["loss"] = {"hard_pixels": hard | {"factor": 1.0}} if hard else {"cross_entropy": plain}
