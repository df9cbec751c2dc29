"""The settings of a run that its outcome depends on."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hemnet.processes.ranks import asked_devices
from hemnet.runs.canonical import class_name, text
from hemnet.runs.canonical import told as class_told
from hemnet.runs.identity import PLACES, SHARED, below, identity, is_watcher, leaves
from hemnet.runs.moved import ROOT, without_root
from hemnet.runs.run import EXTENDED

# Settings about where a run is made and what is logged; they do not change what is learnt.
LEFT_OUT = (
    *PLACES, *SHARED, "seed", "name", "inference", "data.seed", "conclusive", "data.eval_batch_size",
    "data.pin_memory",
    *(
        f"trainer.{name}" for name in (
            "devices", "num_nodes", "strategy", "accelerator", "profiler", "default_root_dir",
            "log_every_n_steps", "benchmark", "enable_progress_bar", "enable_model_summary",
            "detect_anomaly", "num_sanity_val_steps",
        )
    ),
)  # fmt: skip
VALIDATION = "data.val"
"""The node of the images that a score is of: scores of others are never compared."""
HEAD = "model.head."
HEAD_KIND = f"{HEAD}_target_"
ITERATIONS_EVAL = f"{HEAD}iterations_eval"


def settings(
    config: Mapping[str, Any],
    extended: Sequence[Mapping[str, Any]] = (),
    processes: int | None = None,
) -> dict[str, str]:
    """Return the settings that the outcome of a run depends on, as dotted keys, without the seed.

    A key that is null is left out, so that a run from before the key was added has the same settings. The
    batch size, which a configuration states per process, is multiplied by the number of ``processes``; None
    takes those that the configuration asks for, and if that is all devices of a machine, how many there were
    is not known, and the batch size says so. Where the run was ``extended`` (see `TrainingRun.extended`) is a
    setting: its learning rates are not those of a run that was as long from the start.
    """
    trainer, callbacks = config.get("trainer") or {}, config.get("callbacks") or {}
    acting = {
        name: node for name, node in callbacks.items()
        if node and (
            not is_watcher(target := str(node.get("_target_", "")))
            or class_name(target) == "pytorch_lightning.EarlyStopping"
        )
    }  # fmt: skip
    kept = {
        key: text(value, key)
        for key, value in leaves(without_root({**config, "callbacks": acting}))
        if value not in (None, {}) and not below(key, LEFT_OUT)
    }  # fmt: skip
    if extended:
        kept[EXTENDED] = text([*extended])
    if processes is None and (devices := asked_devices(trainer.get("devices", 1))) is not None:
        processes = devices * (trainer.get("num_nodes") or 1)
    if (batch := (config.get("data") or {}).get("batch_size")) is not None:
        known = processes is not None or trainer.get("accelerator") == "cpu"  # where all devices are one
        kept["data.batch_size"] = str(batch * (processes or 1)) if known else f"{batch} a process"
    if folder := data_folder(config):
        kept[ROOT] = folder.casefold()
    return kept


def data_folder(config: Mapping[str, Any]) -> str:
    """Return the name of the folder of a run's data, "" if they are in none.

    Machines keep the same data in different places, and in runs that are shared it is marked: ``<CamVid>``.
    """
    return PurePath(str((config.get("data") or {}).get("root") or "")).name.strip("<>")


def columns(
    config: DictConfig, extended: Sequence[Mapping[str, Any]] = (), processes: int | None = None
) -> dict[str, Any]:
    """Return columns for W&B's table of runs. Sweep and seed are missing: the configuration has them.

    Runs are averaged by ``setting``: data, head, T, h, gradient mode and σ² in words, and six hexadecimal
    digits that stand for all `settings`, so that runs which differ in any of them have another. The data are
    named by the class that reads them, since a folder's name may be a secret.
    """
    about = identity(config)
    em = {
        "T": about.iterations,
        "h": about.highway_scale,
        "gradient": about.gradient,
        "variance": about.variance,
    }
    told = ", ".join([about.head, *(f"{name}={value}" for name, value in em.items() if value is not None)])
    every: Any = OmegaConf.to_container(config, resolve=True)
    own = settings(every, extended, processes)
    digits = hashlib.sha256(repr(sorted(own.items())).encode()).hexdigest()[:6]
    data = class_told(own.get("data.val._target_", "data"))
    setting = f"{data}: {told} ({digits})"
    return {"experiment": about.experiment, "setting": setting, "head": about.head, **em}
