"""Which classes a configuration may name in ``_target_``. They are imported and called, so only few may."""

import inspect
import re
from typing import Any, get_type_hints

from hydra.utils import get_object

from hemnet.config.explain import ConfigError
from hemnet.runs.identity import below
from hemnet.runs.own_packages import GROUP, VARIABLE, own_packages

# The modules whose classes each part of a configuration may name. A configuration may come from anyone, with
# a run directory for example. The classes that it names are imported and called, so it may only name those
# that this project consists of.
TARGETS: dict[str, tuple[str, ...]] = {
    "data": ("hemnet.data",),
    "data.train_transform.pipeline": (
        "albumentations.augmentations",
        "albumentations.core.composition",
        "albumentations.core.transforms_interface",
    ),
    "model": ("hemnet.nets",),
    "model.head.gradient": ("hemnet.em.gradient",),
    "model.auxiliary.gradient": ("hemnet.em.gradient",),
    "optim": ("hemnet.training.optim", "torch.optim"),
    "task": ("hemnet.training.task", "hemnet.training.loss"),
    "inference": ("hemnet.training.inference",),
    "trainer": (
        "hemnet.runs.checkpoint_io",
        "pytorch_lightning.trainer",
        "pytorch_lightning.strategies",
        "pytorch_lightning.plugins",
        "pytorch_lightning.profilers",
        "lightning_fabric.plugins",
    ),
    "callbacks": ("hemnet.callbacks", "pytorch_lightning.callbacks"),
    "logger": ("hemnet.loggers", "pytorch_lightning.loggers"),
}
INSTANTIATE_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def find(target: Any, path: str) -> Any:
    """Return the class that a target names; only targets that are allowed are imported."""
    where = f"{path}._target_" if path else "_target_"
    own = own_packages()
    group, *inner = re.split(r"[.\[]", path)
    inside = [key for key in TARGETS if "." in key and re.match(rf"{re.escape(key)}([.\[]|$)", path)]
    # Few classes may be named inside a part of a network: a backbone there could load weights from anywhere.
    place = inside[0] if inside else "" if group == "model" and len(inner) > 1 else group
    allowed = (*TARGETS.get(place, ()), *own)
    packages = {module.partition(".")[0] for module in allowed}
    refused = ConfigError(
        f"{where} names {target}, which is not allowed: name a class of {', '.join(allowed) or 'no module'}, "
        f"or of your own package, after adding that to the environment variable {VARIABLE}, or declaring it "
        f"by an entry point of the group {GROUP}"
    )
    if not isinstance(target, str) or target.partition(".")[0] not in packages:
        raise refused
    if target.startswith("torch.") and not below(target, allowed):
        raise refused
    try:
        call = get_object(target)
    except Exception as error:
        raise ConfigError(f"{where} names {target}, which cannot be imported: {error}") from error
    # Judged by the module that defines it: any module also contains what it imports, such as `os`.
    home = str(getattr(call, "__module__", ""))
    if not (inspect.isclass(call) or below(home, own)) or not below(home, allowed):
        raise refused
    return call


def require_known_targets(node: Any, path: str) -> None:
    """Raise a ConfigError if a resolved node names, at any depth, a target that is not allowed."""
    if isinstance(node, str) and "${" in node:
        # Hydra would resolve this again, into a node that has not been checked.
        raise ConfigError(f"{path} is {node!r}: a value must not be an interpolation once it is resolved")
    if isinstance(node, dict):
        if "_target_" in node:
            find(node["_target_"], path)
        for key, value in node.items():
            require_known_targets(value, f"{path}.{key}")
    elif isinstance(node, list):
        for i, item in enumerate(node):
            require_known_targets(item, f"{path}[{i}]")


def signature(target: str, path: str) -> tuple[set[str], dict[str, Any]]:
    """Return the names of a target's parameters, and their types as far as annotations can be resolved."""
    call = find(target, path)
    try:
        hints = get_type_hints(call.__init__ if inspect.isclass(call) else call)
    except (NameError, TypeError):
        hints = {}  # some packages have annotations that only type checkers can resolve
    try:
        return set(inspect.signature(call).parameters), hints
    except ValueError as error:
        raise ConfigError(f"{path}._target_ is {target}, which takes no arguments by name") from error
