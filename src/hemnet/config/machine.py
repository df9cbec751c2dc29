"""The devices of this machine: how many a run takes, and the configuration of a run that had others."""

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hemnet.config.explain import ConfigError
from hemnet.processes.launch import launched
from hemnet.processes.ranks import asked_devices
from hemnet.wording import counted

log = logging.getLogger(__name__)
GPUS = ("gpu", "cuda", "mps")
"""Names of GPUs in ``trainer.accelerator``; "auto" is one of them where there is one."""
ON_CPU = {
    "trainer.accelerator": "cpu", "trainer.devices": 1, "trainer.num_nodes": 1, "trainer.strategy": "auto",
    "trainer.sync_batchnorm": False,
}  # fmt: skip
"""What replaces keys of a run that was trained on GPUs, where there is none."""
ENGINES = ("model.head.engine", "model.auxiliary.engine")
PRECISIONS = {"16": "bf16-mixed", "16-mixed": "bf16-mixed", "16-true": "32-true"}
"""What replaces float16, which processors cannot compute in."""


def devices_to_use(trainer: DictConfig) -> int:
    """Return how many devices of this machine, which are as many processes, a run with this trainer takes.

    Raises:
        ConfigError: the trainer asks for GPUs that are not there, or for no device.
    """
    name, asked = str(trainer.accelerator), asked_devices(trainer.devices)
    gpus = gpu_count(name)
    if gpus == 0 and name in GPUS:
        raise ConfigError(
            f"trainer.accelerator: {name} is a GPU, and there is none here that torch can use; "
            "trainer=cpu runs without one"
        )
    if asked is not None and not 0 < asked <= (gpus or asked):
        there = f"this machine has {counted(gpus, 'GPU')}" if gpus else "a run takes 1 or more"
        raise ConfigError(f"trainer.devices is {trainer.devices}: {there}")
    return asked or gpus or 1


def gpu_count(accelerator: str) -> int:
    """Return the number of GPUs of this machine that ``trainer.accelerator`` means."""
    import torch  # here, as it takes seconds, which commands that only look at configurations do without

    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return torch.cuda.device_count()
    return int(accelerator in ("gpu", "mps", "auto") and torch.backends.mps.is_available())


def device_for(config: DictConfig, device: str | None = None) -> str:
    """Return where a run's network is used, cuda if there is one, and set the run's float32 arithmetic."""
    import torch

    from hemnet.training.arithmetic import use_float32

    use_float32(OmegaConf.select(config, "task.float32_precision", default="highest"))
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def on_this_machine(config: DictConfig, assignments: Sequence[str] = ()) -> DictConfig:
    """Return a copy of a run's configuration with which its network can be used here.

    A run that was trained on GPUs is used on the processor where there is none, and on as many GPUs as there
    are where there are fewer. It is used on one machine, unless torchrun or SLURM has started this process.

    Args:
        config: the configuration, ``assignments`` applied.
        assignments: the ``key=value`` that the user asked for; their keys are not replaced.

    Raises:
        ConfigError: the user asked for GPUs that are not there.
    """
    asked = {assignment.partition("=")[0].lstrip("+") for assignment in assignments}
    trainer, on_gpu = config.trainer, config.trainer.accelerator in GPUS
    gpus = gpu_count(trainer.accelerator if on_gpu else "gpu")
    changes: dict[str, Any] = {}
    if not gpus:
        changes = {key: "auto" for key in ENGINES if OmegaConf.select(config, key) == "triton"}
    if on_gpu and not gpus:
        changes |= ON_CPU | {"trainer.precision": PRECISIONS.get(str(trainer.precision), trainer.precision)}
    elif on_gpu and (asked_devices(trainer.devices) or 1) > gpus:
        changes = {"trainer.devices": gpus}
    elif trainer.num_nodes > 1 and not launched():
        changes = {"trainer.num_nodes": 1}
    changed = config.copy()
    for key, value in changes.items():
        before = OmegaConf.select(config, key)
        if before is None or before == value:
            continue
        if key in asked:
            raise ConfigError(f"{key}={before}: this machine has {gpus} GPUs; give {key}={value}, or nothing")
        OmegaConf.update(changed, key, value)
        log.info("%s is %s here, not %s as in training: this machine has %d GPUs", key, value, before, gpus)
    return changed


def check_batch_statistics(config: DictConfig, *, ranks_on_cpu: bool) -> None:
    """Refuse synchronised batch normalisation on the CPU, which torch only refuses at the first batch.

    Raises:
        ConfigError: ``trainer.sync_batchnorm`` is true, and its processes run on the CPU.
    """
    if config.trainer.sync_batchnorm and ranks_on_cpu:
        raise ConfigError(
            "trainer.sync_batchnorm is true for processes on the CPU, where torch cannot do it: set it to "
            "false, or trainer.accelerator=gpu"
        )
