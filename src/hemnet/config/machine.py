"""The configuration of a trained run, for the machine on which its network is used."""

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hemnet.config.check import ConfigError
from hemnet.processes.launch import launched

log = logging.getLogger(__name__)
ON_CPU = {
    "trainer.accelerator": "cpu", "trainer.devices": 1, "trainer.num_nodes": 1, "trainer.strategy": "auto",
    "trainer.sync_batchnorm": False,
}  # fmt: skip
"""What replaces keys of a run that was trained on GPUs, where there is none."""
ENGINES = ("model.head.engine", "model.auxiliary.engine")
PRECISIONS = {"16": "bf16-mixed", "16-mixed": "bf16-mixed", "16-true": "32-true"}
"""What replaces float16, which processors cannot compute in."""


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
    import torch  # here, as it takes seconds, which commands that only look at configurations do without

    asked = {assignment.partition("=")[0].lstrip("+") for assignment in assignments}
    trainer, gpus = config.trainer, torch.cuda.device_count() if torch.cuda.is_available() else 0
    on_gpu = trainer.accelerator in ("gpu", "cuda") or (
        trainer.accelerator == "mps" and not torch.backends.mps.is_available()
    )
    wanted = _count(trainer.devices)
    changes: dict[str, Any] = {}
    if not gpus:
        changes = {key: "auto" for key in ENGINES if OmegaConf.select(config, key) == "triton"}
    if on_gpu and not gpus:
        changes |= ON_CPU | {"trainer.precision": PRECISIONS.get(str(trainer.precision), trainer.precision)}
    elif on_gpu and wanted > gpus:
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


def _count(devices: Any) -> int:
    """Return how many devices Lightning's ``trainer.devices`` asks for; 1 if it takes what there is."""
    if OmegaConf.is_list(devices) or isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    return int(devices) if str(devices).isdecimal() else 1
