"""What names and compares runs: head, T, h, seed; which keys count as one setting; names of jobs."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hemnet.errors import HemnetError
from hemnet.runs.canonical import TARGET, class_name, text
from hemnet.runs.moved import without_root
from hemnet.runs.redaction import is_secret, redact
from hemnet.runs.renamed import EM_HEAD, with_present_names

PLAIN_HEADS = {
    "hemnet.FCNHead": "fcn",
    "hemnet.NonLocalHead": "nonlocal",
    "hemnet.PSPHead": "pspnet",
    "hemnet.DeepLabV3PlusHead": "deeplabv3plus",
}
"""The heads without an EM layer, by `class_name`."""
# Keys that change where and how a run is made, but not what it computes.
PLACES = (
    "sweep",
    "resume",
    "run_dir",
    "runs",
    "logger",
    "hydra",
    "data.root",
    "data.cache",
    "data.cache_gib",
    "data.num_workers",
)
# Keys that change what is measured, logged or checked in training, but none of its steps.
WATCHING = (
    "conclusive",
    "inference",
    "data.eval_batch_size",
    *(
        f"trainer.{name}"
        for name in (
            "check_val_every_n_epoch", "default_root_dir", "detect_anomaly", "enable_model_summary",
            "enable_progress_bar", "limit_predict_batches", "limit_test_batches", "log_every_n_steps",
            "num_sanity_val_steps", "profiler", "val_check_interval",
        )
    ),
)  # fmt: skip
# Callbacks that do the same; any other may change the steps.
WATCHERS = {
    "DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary",
    "RichModelSummary", "RichProgressBar", "Timer", "TQDMProgressBar",
}  # fmt: skip
# Keys that decide after how many steps training ends. Its learning rates depend on them, and no other thing.
LENGTH = tuple(
    f"trainer.{name}" for name in ("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps")
)
# Keys that heads refer to; the values that a head has taken from them are under model.head.
SHARED = ("model.num_components", "model.highway_scale", "model.mask_padding")
# Options of Lightning's trainer that leave out batches, logging or checkpoints, to try the code.
LIMITS = ("fast_dev_run", "overfit_batches", "limit_train_batches", "limit_val_batches", "barebones")
LONGEST_NAME = 200  # characters; file systems allow 255 bytes


@dataclass(frozen=True)
class Identity:
    """The settings that identify a run. The four settings of EM are None if the head has no EM layer.

    Attributes:
        experiment: the recipe's name.
        sweep: the sweep that the run belongs to; None if it belongs to none.
        seed: the random seed.
        head: ``hem``, ``em`` (highway scale 0), ``emanet`` (dot products, unit means, no gradient through
            EM), the name of a head without EM, or the import path of a head of another package, whose
            settings are not known.
        iterations: T in training.
        highway_scale: h; ``/`` joins the values of a schedule that has several. ``learned from 0.5`` and
            ``learned per iteration from 0.5`` are trained scales with that start.
        gradient: the gradient mode of the iterations.
        variance: sigma squared as configured; None also if the layer chooses it.
    """

    experiment: str
    sweep: str | None
    seed: int
    head: str
    iterations: int | None = None
    highway_scale: float | str | None = None
    gradient: str | None = None
    variance: float | None = None

    def tags(self) -> list[str]:
        """Return labels for W&B: sweep, head, T, h, gradient mode, seed."""
        named = {"sweep": self.sweep, "T": self.iterations, "h": self.highway_scale, "seed": self.seed}
        labels = [f"{name}={value}" for name, value in named.items() if value is not None]
        return [f"head={self.head}", *labels, *([] if self.gradient is None else [self.gradient])]


def identity(config: DictConfig) -> Identity:
    """Return the identity of the run with this configuration.

    Raises:
        HemnetError: the seed is no whole number.
    """
    if not isinstance(config.seed, int) or isinstance(config.seed, bool):
        raise HemnetError(f"seed is {config.seed!r}; it must be a whole number")
    node = with_present_names(OmegaConf.to_container(config.model.head, resolve=True))
    sweep = config.get("sweep")
    about: dict[str, Any] = {"experiment": str(config.name), "sweep": None if sweep is None else str(sweep)}
    about["seed"] = config.seed
    target = class_name(node[TARGET])
    if target != EM_HEAD:
        return Identity(**about, head=PLAIN_HEADS.get(target, target))
    scale = _scale(node)
    gradient = _gradient(node)
    if (gradient, node["assignment"], node["normalize"]) == ("detached", "dot", "l2"):
        head = "emanet"
    else:
        head = "em" if scale == 0 else "hem"
    em = {"iterations": int(node["iterations"]), "highway_scale": scale, "variance": node["variance"]}
    return Identity(**about, **em, head=head, gradient=gradient)


def _gradient(node: dict[str, Any]) -> str | None:
    """Return the name of the gradient mode, which may be a node with settings of its own."""
    mode = node["gradient"]
    if not isinstance(mode, dict):
        return mode
    from hemnet.em.gradient.choose import MODES  # here, since it needs torch

    target = class_name(mode.get(TARGET))
    return next((name for name, made in MODES.items() if f"hemnet.{made.__name__}" == target), target)


def _scale(node: dict[str, Any]) -> float | str:
    scale, learned = node["highway_scale"], node["learn_scale"]
    told = [text(float(h)) for h in (scale if isinstance(scale, list) else [scale])]
    same = len({*told}) == 1  # as a schedule, too, it is that h
    start = told[0] if same else "/".join(told)
    if learned != "none":
        return f"learned {'per iteration ' * (learned == 'per_iteration')}from {start}"
    return float(start) if same else start


def below(key: str, tops: Iterable[str]) -> bool:
    """Return whether a dotted key, such as ``logger.csv``, is one of ``tops`` or inside one of them."""
    return any(key == top or key.startswith(f"{top}.") for top in tops)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every leaf of nested dictionaries; a list is a leaf."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def is_placement(key: str) -> bool:
    """Return whether a key, such as ``data.root``, changes only where and how a run is made."""
    return below(key, (*PLACES, "callbacks"))


def is_watcher(target: str) -> bool:
    """Return whether a callback, by its ``_target_``, changes no step of training; see also `WATCHERS`."""
    package, _, name = target.rpartition(".")
    return package == "" or below(package, ("hemnet.callbacks",)) or (
        below(package, ("pytorch_lightning.callbacks",)) and name in WATCHERS
    )  # fmt: skip


def differences(one: DictConfig, other: DictConfig) -> list[str]:
    """Return the keys in which two resolved configurations differ and on which the steps of training depend.

    Without a difference, one run may be resumed with the configuration of the other. These are free:
    placement, `SHARED`, `WATCHING`, and callbacks that watch. Those of `LENGTH` are among the differences.
    A path is the same whether it is relative, as older runs have stored it, or absolute, and one in the data
    set wherever the root of that is. A head that lacks an option has its default.
    """
    plain = (with_present_names(OmegaConf.to_container(config)) for config in (one, other))
    first, second = (dict(leaves(without_root(node))) for node in plain)
    keys = sorted(
        key for key in first.keys() | second.keys() if not _same(key, first.get(key), second.get(key))
    )
    return [
        key
        for key in keys
        if not below(key, (*PLACES, *SHARED, *WATCHING)) and not _watches(key, first, second)
    ]


def _same(key: str, one: Any, other: Any) -> bool:
    if key.endswith(f".{TARGET}"):
        return class_name(one) == class_name(other)
    if isinstance(one, str) and isinstance(other, str) and "/" in one + other:
        return one == other or os.path.abspath(one) == os.path.abspath(other)
    return bool(one == other)


def _watches(key: str, *configs: Mapping[str, Any]) -> bool:
    group, _, rest = key.partition(".")
    target = f"callbacks.{rest.partition('.')[0]}._target_"
    return group == "callbacks" and all(is_watcher(str(config.get(target) or "")) for config in configs)


def debugging(config: Mapping[Any, Any]) -> list[str]:
    """Return the keys that make a run a trial of the code, such as ``trainer.fast_dev_run``; [] if none does.

    Such a run trains or validates on a part of the data, so its scores count nowhere. `detect_anomaly` and
    `profiler` only make a run slower, and limits of testing and prediction do not concern training.
    """
    trainer = config.get("trainer") or {}
    return [f"trainer.{name}" for name in LIMITS if _limits(name, trainer.get(name))]


def _limits(name: str, value: Any) -> bool:
    if name.startswith("limit_"):  # 1.0 is all batches, and 1 a single one
        return value is not None and not (isinstance(value, float) and value == 1)
    return bool(value)


def job_name(overrides: Sequence[str]) -> str:
    """Return the folder's name for the job with these ``key=value`` overrides, without placement and secrets.

    The same overrides give the same name in any sweep, so that a repeated sweep finds its jobs.
    """
    pairs = [override.lstrip("+~").partition("=")[::2] for override in overrides]
    pairs = [(key, redact(value)) for key, value in pairs if not is_placement(key) and not is_secret(key)]
    leaves = [re.split(r"[./]", key)[-1] for key, _ in pairs]
    named = [
        f"{leaf if leaves.count(leaf) == 1 else key}-{value}"
        for leaf, (key, value) in zip(leaves, pairs, strict=True)
    ]
    # Only characters without a meaning to the shell or to Hydra's grammar.
    name = re.sub(r"[^\w.+-]+", "-", "_".join(named)) or "job"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
