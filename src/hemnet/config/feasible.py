"""What can be known of a training before it starts: that a number means nothing, that it has no end."""

import contextlib
import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from hemnet.config.check import absolute_path, check, check_parts
from hemnet.config.explain import ConfigError, nearest
from hemnet.config.targets import INSTANTIATE_KEYS, find
from hemnet.wording import shortened

if TYPE_CHECKING:  # slow to import
    import pytorch_lightning as pl
    from torch import nn

    from hemnet.data import SegmentationData
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
        DataError: the folder of the data set is missing.
    """
    resolved = check_parts(config)
    # Before all constructors are imported, which takes seconds.
    _check_numbers(config.trainer)
    require_data(resolved)
    check(config)


def require_data(resolved: Any) -> None:
    """Raise the error of the training reader if the folder of its data set is missing.

    Readers import nothing slow, so the error comes before what does.

    Args:
        resolved: a configuration as `check_parts` returns it.

    Raises:
        DataError: there is no such folder.
    """
    data = resolved["data"]
    root = data.get("root")
    if not isinstance(root, str) or Path(absolute_path(root, "data.root")).is_dir():
        return
    given = {key: value for key, value in data["train"].items() if key not in INSTANTIATE_KEYS}
    with contextlib.suppress(TypeError, ValueError):  # of arguments, which `check` explains
        find(data["train"].get("_target_"), "data.train")(**{"root": absolute_path(root)} | given)


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


def check_batch_values(
    config: DictConfig, trainer: "pl.Trainer", network: "nn.Module", data: "SegmentationData"
) -> None:
    """Check that every batch normalisation has several values per channel, without which torch cannot train.

    Heads that pool the whole image, such as pspnet, have one value per channel and image. All batches of
    training have the same size, since an incomplete one is left out.

    Raises:
        ConfigError: a normalisation has a single value per channel.
    """
    images = config.data.batch_size * (trainer.world_size if config.trainer.sync_batchnorm else 1)
    if images > 1:
        return
    if name := _single_value(network, tuple(data.train_dataset[0]["image"].shape)):
        raise ConfigError(
            "data.batch_size: 1 image in the step of a process gives batch normalisation a single value per "
            f"channel ({name}), from which it learns nothing: give 2 or more images, or another model/head"
        )


def check_deterministic(config: DictConfig, trainer: "pl.Trainer", network: "nn.Module") -> None:
    """Check that a network that is to be trained deterministically can be, which on CUDA not all can.

    Raises:
        ConfigError: a module has no deterministic gradient there.
    """
    from hemnet.training.arithmetic import not_deterministic

    if config.trainer.deterministic is not True or trainer.strategy.root_device.type != "cuda":
        return
    if names := not_deterministic(network):
        part = "auxiliary" if all(name.startswith("auxiliary.") for name in names) else names[0].split(".")[0]
        target = str(OmegaConf.select(config, f"model.{part}._target_")).rpartition(".")[2]
        kinds = sorted({type(network.get_submodule(name)).__name__ for name in names})
        raise ConfigError(
            f"trainer.deterministic is true, and on a GPU torch has no deterministic gradient for "
            f"{', '.join(kinds)} in model/{part} ({target}: {shortened(names, 3)}): choose another, or give "
            "trainer.deterministic=warn or false"
        )


def _single_value(network: "nn.Module", image_CHW: tuple[int, ...]) -> str | None:
    """Return the name of a batch normalisation that gets one value per channel from a single image."""
    import torch  # here, as it takes seconds, which errors of the configuration do without
    from torch.nn.modules.batchnorm import _BatchNorm

    # A copy whose tensors have shapes alone, on the device "meta": it takes no memory and computes nothing.
    tensors = [*network.parameters(), *network.buffers()]
    shapes = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    twin = copy.deepcopy(network, dict[int, Any](shapes)).train()
    found: list[str] = []
    for name, module in twin.named_modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(
                lambda _, given, name=name: found.append(name) if given[0][:, 0].numel() == 1 else None
            )
    with torch.no_grad(), contextlib.suppress(Exception):  # any other fault is the first step's to report
        twin(torch.empty(1, *image_CHW, device="meta"))
    return found[0] if found else None
