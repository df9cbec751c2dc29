"""Names that older versions wrote into a run's config.yaml, and what bears them now."""

from typing import Any

# By their beginnings.
RENAMED = {
    "hemnet.callbacks.wandb_run.": "hemnet.loggers.wandb_run.",
    "hemnet.inference.": "hemnet.training.inference.",
    "hemnet.optim.": "hemnet.training.optim.",
    "hemnet.records.MetricsFile": "hemnet.loggers.metrics_file.MetricsFile",
    "hemnet.records.SafeCheckpoints": "hemnet.runs.checkpoint_io.SafeCheckpoints",
    "hemnet.task.": "hemnet.training.task.",
}


def with_present_names(node: Any) -> Any:
    """Return a tree of plain values with the present name in every ``_target_``."""
    if isinstance(node, dict):
        named = {key: with_present_names(value) for key, value in node.items()}
        if isinstance(target := named.get("_target_"), str):
            old = next((old for old in RENAMED if target.startswith(old)), "")
            named["_target_"] = RENAMED.get(old, "") + target.removeprefix(old)
        return named
    return [with_present_names(item) for item in node] if isinstance(node, list) else node
