"""What tells the runs of an experiment apart, read from their configurations and overrides."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hemnet.em.gradient.choose import MODES
from hemnet.runs.redaction import is_secret, redact

PLAIN_HEADS = {
    "FCNHead": "fcn",
    "NonLocalHead": "nonlocal",
    "PSPHead": "pspnet",
    "DeepLabV3PlusHead": "deeplabv3plus",
}
# Keys that say where and how a run is made rather than what it is.
PLACES = (
    "sweep",
    "resume",
    "run_dir",
    "runs",
    "logger",
    "hydra",
    "data.root",
    "data.cache",
    "data.num_workers",
)
# Keys that heads may take a value of theirs from; what a head has taken is under model.head.
SHARED = ("model.num_components", "model.highway_scale")
LONGEST_NAME = 200  # file systems take 255 bytes


@dataclass(frozen=True)
class Identity:
    """What a run is a run of. The four settings of EM are None where the head has no EM layer.

    Attributes:
        experiment: the recipe.
        sweep: the sweep that the run belongs to; None if it stands alone.
        seed: of everything random.
        head: ``hem``, ``em`` (highway scale 0), ``emanet`` (dot products, unit means, no gradient through
            EM), or the name of a head without EM.
        iterations: T in training.
        highway_scale: h; a schedule's values joined by ``/``, and ``learned`` if it is trained.
        gradient: how the iterations are differentiated.
        variance: sigma squared as configured; None also where it is left to the layer.
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
        """Short labels for a tracker: sweep, head, T, h, gradient mode, seed."""
        named = {"sweep": self.sweep, "T": self.iterations, "h": self.highway_scale, "seed": self.seed}
        labels = [f"{name}={value}" for name, value in named.items() if value is not None]
        return [f"head={self.head}", *labels, *([] if self.gradient is None else [self.gradient])]

    def columns(self) -> dict[str, Any]:
        """What a tracker's table groups by, each key a column: experiment, head, T, h, gradient, variance.

        Sweep and seed are keys of the configuration as it is.
        """
        return {
            "experiment": self.experiment,
            "head": self.head,
            "T": self.iterations,
            "h": self.highway_scale,
            "gradient": self.gradient,
            "variance": self.variance,
        }


def identity(config: DictConfig) -> Identity:
    """Return what the run with this configuration is a run of."""
    node: Any = OmegaConf.to_container(config.model.head, resolve=True)
    about = {"experiment": config.name, "sweep": config.get("sweep"), "seed": config.seed}
    target = str(node["_target_"]).rpartition(".")[2]
    if target != "EMHead":
        return Identity(**about, head=PLAIN_HEADS.get(target, target))
    scale = _scale(node)
    gradient = _gradient(node)
    if (gradient, node.get("assignment"), node.get("normalize")) == ("detached", "dot", "l2"):
        head = "emanet"
    else:
        head = "em" if scale == 0 else "hem"
    return Identity(
        **about,
        head=head,
        iterations=node.get("iterations"),
        highway_scale=scale,
        gradient=gradient,
        variance=node.get("variance"),
    )


def _gradient(node: dict[str, Any]) -> str | None:
    """Return the name of the gradient mode, which may be a node with settings of its own."""
    mode = node.get("gradient")
    if not isinstance(mode, dict):
        return mode
    target = str(mode.get("_target_")).rpartition(".")[2]
    return next((name for name, made in MODES.items() if made.__name__ == target), target)


def _scale(node: dict[str, Any]) -> float | str:
    if node.get("learn_scale", "none") != "none":
        return "learned"
    scale = node.get("highway_scale", 0.5)
    return "/".join(f"{h:g}" for h in scale) if isinstance(scale, list) else float(scale)


def below(key: str, tops: Iterable[str]) -> bool:
    """Whether a dotted key, such as ``logger.csv``, is one of ``tops`` or in one of them."""
    return any(key == top or key.startswith(f"{top}.") for top in tops)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of everything in nested dictionaries; a list is a value."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def is_placement(key: str) -> bool:
    """Whether a configuration key, such as ``data.root``, changes only where and how a run is made."""
    return below(key, (*PLACES, "callbacks"))


def differences(one: DictConfig, other: DictConfig) -> list[str]:
    """Return the keys, apart from placement and `SHARED`, at which two resolved configurations differ."""
    first, second = (dict(leaves(OmegaConf.to_container(config))) for config in (one, other))
    keys = sorted((first.keys() | second.keys()) - set(SHARED))
    return [key for key in keys if first.get(key) != second.get(key) and not is_placement(key)]


def job_name(overrides: Sequence[str]) -> str:
    """Return a folder's name for the job with these ``key=value`` overrides, placement and secrets left out.

    The same overrides give the same name, whatever else is in the sweep: by it a job is found again.
    """
    pairs = [override.lstrip("+~").partition("=")[::2] for override in overrides]
    pairs = [(key, redact(value)) for key, value in pairs if not is_placement(key) and not is_secret(key)]
    leaves = [re.split(r"[./]", key)[-1] for key, _ in pairs]
    named = [
        f"{leaf if leaves.count(leaf) == 1 else key}-{value}"
        for leaf, (key, value) in zip(leaves, pairs, strict=True)
    ]
    # Nothing that a shell or Hydra's grammar would read as more than a name.
    name = re.sub(r"[^\w.+-]+", "-", "_".join(named)) or "job"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
