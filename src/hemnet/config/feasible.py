"""What can be known of a training before it starts: that a number means nothing, that it has no end."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from hemnet.config.check import ConfigError, check, check_parts, nearest

if TYPE_CHECKING:  # slow to import
    from hemnet.training.task import SegmentationTask

# The least value of numbers that Lightning takes, and then divides by or takes for something else.
LEAST: dict[str, float] = {
    "max_epochs": 1, "max_steps": 1, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1,
    "log_every_n_steps": 1, "val_check_interval": 1e-9, "gradient_clip_val": 0, "num_sanity_val_steps": 0,
}  # fmt: skip
# Values below those that have a meaning of their own: no limit, or the whole split.
SPECIAL = {"max_epochs": -1, "max_steps": -1, "num_sanity_val_steps": -1}
OWN = ("hemnet.", "pytorch_lightning.")


def check_training(config: DictConfig) -> None:
    """Check a configuration for training: as `check` does, and the numbers of the trainer.

    Raises:
        ConfigError: see `check`; a number that says when something is done is below the least that has a
            meaning, or training has no end.
    """
    check_parts(config)
    _check_numbers(config.trainer)  # before all constructors are imported, which takes seconds
    check(config)


def _check_numbers(trainer: DictConfig) -> None:
    for name, least in LEAST.items():
        value = trainer.get(name)
        if isinstance(value, int | float) and value < least and value != SPECIAL.get(name):
            raise ConfigError(f"trainer.{name} is {value}: give a number of {least:g} or more")
    if all(trainer.get(name) in (None, -1) for name in ("max_epochs", "max_steps")):
        limit = trainer.get("max_time")
        also = f" besides trainer.max_time={limit}" if limit else ""
        raise ConfigError(
            "trainer.max_epochs and trainer.max_steps set no end, and the learning-rate schedule needs one: "
            f"give one of them{also}"
        )
    if trainer.get("use_distributed_sampler"):
        raise ConfigError(
            "trainer.use_distributed_sampler is true, and Lightning would share out samples a second time: "
            "set it to false"
        )


def check_monitors(config: DictConfig, task: "SegmentationTask") -> None:
    """Check that every metric that a callback monitors is one that training logs.

    A callback from a package of the user's own may log further metrics, so nothing is checked beside one.

    Raises:
        ConfigError: a monitored metric is unknown; the message suggests a similar one.
    """
    nodes: dict[str, Any] = {name: node for name, node in (config.callbacks or {}).items() if node}
    if not all(str(node.get("_target_", "")).startswith(OWN) for node in nodes.values()):
        return
    known = {*task.metric_names(), "train/skipped_steps", "epoch", "step"}
    for name, node in nodes.items():
        monitor = node.get("monitor")
        if monitor is not None and monitor not in known:
            raise ConfigError(f"callbacks.{name}.monitor is {monitor}: {nearest(monitor, known)}")
