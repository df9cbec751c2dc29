"""The settings of a run that its outcome depends on."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hemnet.processes.ranks import asked_devices
from hemnet.runs.canonical import TARGET, class_name, digits, text, told
from hemnet.runs.identity import PLACES, SHARED, WATCHING, below, identity, is_watcher, leaves
from hemnet.runs.moved import ROOT, moved, without_root
from hemnet.runs.renamed import with_present_names
from hemnet.runs.run import EXTENDED

# Settings about where a run is made and what is logged; they do not change what is learnt.
LEFT_OUT = (
    *PLACES, *SHARED, *WATCHING, "seed", "name", "data.pin_memory", "trainer.sync_batchnorm",
    *(f"trainer.{name}" for name in ("accelerator", "benchmark", "devices", "num_nodes", "strategy")),
)  # fmt: skip
ACTING = ("pytorch_lightning.EarlyStopping", "pytorch_lightning.Timer")
"""Callbacks that change no step, but after how many training ends."""
PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""Short for what Lightning makes of them."""
DEFAULTS = {
    "trainer.precision": "32-true", "trainer.accumulate_grad_batches": "1", "trainer.max_steps": "-1",
    "trainer.limit_train_batches": "1", "trainer.limit_val_batches": "1",
    "trainer.gradient_clip_algorithm": "norm", "trainer.deterministic": "False",
    "trainer.reload_dataloaders_every_n_epochs": "0", "trainer.inference_mode": "True",
    "trainer.use_distributed_sampler": "True", "trainer.barebones": "False",
    "trainer.enable_checkpointing": "True", "trainer.overfit_batches": "0", "trainer.fast_dev_run": "False",
    "model.backbone.activation_checkpointing": "False",
}  # fmt: skip
"""What Lightning's trainer, or a backbone, takes for an option that is null or missing; so the value is left
out, too."""
NAMED_BY_FOLDER = ("Folder", "Table")
"""Classes of users' own data, which are called as their folder is."""
OPTIMIZER = "optim.optimizer"
OPTIMIZER_DEFAULTS = {
    "torch.AdamW": {"betas": "[0.9, 0.999]", "eps": "1e-08", "weight_decay": "0.01", "amsgrad": "False"},
    "torch.SGD": {"momentum": "0", "dampening": "0", "weight_decay": "0", "nesterov": "False"},
}  # fmt: skip
"""What torch's optimizers take for an option that is missing, by `class_name`."""
SAVING = "[{_target_: hemnet.SafeCheckpoints}]"
"""The plugin of every recipe, which changes how checkpoints are written; the oldest runs have none."""
BATCH_SIZE = "data.batch_size"
FINETUNED, DIGITS = "finetune", 12
"""The key of the run or checkpoint whose weights a run starts from, and how many digits stand for them."""
VALIDATION = "data.val"
"""The node of the images that a score is of: scores of others are never compared."""
HEAD = "model.head."
HEAD_KIND = f"{HEAD}_target_"
ITERATIONS_EVAL = f"{HEAD}iterations_eval"
FOLLOWED = {"data.seed": "seed", ITERATIONS_EVAL: f"{HEAD}iterations"}
"""Keys that have the value of another unless they are set; where they have it anyway, they are left out."""
DIMENSIONS = {
    f"{HEAD}{name}"
    for name in ("_target_", "iterations", "highway_scale", "learn_scale", "gradient", "gradient._target_")
}
"""The settings of a head that `hemnet.runs.identity` returns."""
UNKNOWN = " a process"
"""Ends the batch size of a run of which nobody knows on how many processes it was."""


def settings(
    config: Mapping[str, Any],
    extended: Sequence[Mapping[str, Any]] = (),
    processes: int | None = None,
    weights: str | None = None,
) -> dict[str, str]:
    """Return the settings that the outcome of a run depends on, as dotted keys, without the seed.

    A key that is null is left out, so that a run from before the key was added has the same settings, and so
    is one of `DEFAULTS` that has its default. Paths in the run's folder start at ``${run_dir}``.
    The batch size, which a configuration states per process, is multiplied by the number of ``processes``;
    None takes those that the configuration asks for, and if that is all devices of a machine, how many there
    were is not known, and the batch size says so. Where the run was ``extended`` (see
    `TrainingRun.extended`) is a setting: its learning rates are not those of a run that was as long from the
    start. Of a run that was fine-tuned, the SHA-256 of the ``weights`` is one where it is known, in place of
    the path at which they were. The order of the data is one if its seed is not the run's.
    """
    trainer, kept = config.get("trainer") or {}, _stated(config)
    if extended:
        kept[EXTENDED] = text([*extended])
    if weights and FINETUNED in kept:
        kept[FINETUNED] = f"weights {weights[:DIGITS]}"
    for key in FOLLOWED:
        if key in kept and kept[key] == followed(config, key):
            del kept[key]
    if not trainer.get("gradient_clip_val"):  # 0 clips nothing
        kept.pop("trainer.gradient_clip_val", None)
        kept.pop("trainer.gradient_clip_algorithm", None)
    kept = {key: value for key, value in kept.items() if DEFAULTS.get(key) != value}
    kept |= _batch_size(config.get("data") or {}, trainer, processes)
    if folder := data_folder(config):
        kept[ROOT] = folder.casefold()
    return kept


def _stated(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what a configuration states that may count, as text; see `settings`."""
    callbacks = config.get("callbacks") or {}
    acting = {name: node for name, node in callbacks.items() if node and _acts(node)}
    here = moved({**config, "callbacks": acting}, config.get("run_dir"), "${run_dir}")
    stated = {
        key: text(value, key)
        for key, value in leaves(without_root(here))
        if value not in (None, {}) and not below(key, LEFT_OUT)
    }
    if stated.get("trainer.plugins") == SAVING:
        del stated["trainer.plugins"]
    if (precision := stated.get("trainer.precision", "").strip("'")) in PRECISIONS:
        stated["trainer.precision"] = PRECISIONS[precision]
    usual = OPTIMIZER_DEFAULTS.get(stated.get(f"{OPTIMIZER}.{TARGET}", ""), {})
    return {f"{OPTIMIZER}.{key}": value for key, value in usual.items()} | stated


def followed(config: Mapping[str, Any], key: str) -> str | None:
    """Return the value of what a key of `FOLLOWED` follows, as text; None if there is none."""
    value = dict(leaves(config)).get(FOLLOWED[key])
    return None if value is None else text(value)


def _acts(node: Mapping[str, Any]) -> bool:
    """Return whether a callback changes what is learnt."""
    target = str(node.get(TARGET, ""))
    skips = class_name(target) == "hemnet.FiniteSteps" and node.get("policy") == "skip"
    return not is_watcher(target) or class_name(target) in ACTING or skips


def _batch_size(data: Mapping[str, Any], trainer: Mapping[str, Any], processes: int | None) -> dict[str, str]:
    """Return the batch size of all processes, with their number if each normalises its own images."""
    if (batch := data.get("batch_size")) is None:
        return {}
    if processes is None and (devices := asked_devices(trainer.get("devices", 1))) is not None:
        processes = devices * (trainer.get("num_nodes") or 1)
    if processes is None and trainer.get("accelerator") != "cpu":  # where all devices are one
        return {BATCH_SIZE: f"{batch}{UNKNOWN}"}
    size = str(batch * (processes or 1))
    apart = (processes or 1) > 1 and not trainer.get("sync_batchnorm")
    return {BATCH_SIZE: f"{size}, normalised in {processes} parts" if apart else size}


def data_folder(config: Mapping[str, Any]) -> str:
    """Return the name of the folder of a run's data, "" if they are in none.

    Machines keep the same data in different places, and in runs that are shared it is marked: ``<CamVid>``.
    """
    return PurePath(str((config.get("data") or {}).get("root") or "")).name.strip("<>")


def columns(
    config: DictConfig,
    extended: Sequence[Mapping[str, Any]] = (),
    processes: int | None = None,
    weights: str | None = None,
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
    words = ", ".join([about.head, *(f"{name}={value}" for name, value in em.items() if value is not None)])
    every = with_present_names(OmegaConf.to_container(config, resolve=True))
    own = settings(every, extended, processes, weights)
    rest = {key: value for key, value in own.items() if key not in DIMENSIONS}
    content = [about.head, *em.values(), every.get("conclusive") is not False, *sorted(rest.items())]
    data = told(own.get(f"{VALIDATION}.{TARGET}", "data"))
    setting = f"{data}: {words} ({digits(repr(content))})"
    return {"experiment": about.experiment, "setting": setting, "head": about.head, **em}
