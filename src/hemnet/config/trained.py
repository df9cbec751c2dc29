"""The configuration of a trained run as a command uses it: the run's own, changed by ``key=value``.

Most keys of a run were of its training, and no command on the trained network reads them. `REACHING` says
which keys each command obeys. `override` refuses all others, so that no output records a change that had no
effect.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hemnet.config.check import check
from hemnet.config.explain import ConfigError, explain
from hemnet.config.overrides import parse_override
from hemnet.runs.identity import SHARED, below, leaves
from hemnet.runs.moved import ROOT, moved
from hemnet.wording import shortened

Command = Literal["evaluate", "predict", "explore", "explore IMAGES", "export", "cost"]
# What evaluation takes from the configured trainer: where to run and how to compute. The rest is of training.
EVALUATION = (
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "precision", "deterministic",
    "inference_mode", "plugins", "sync_batchnorm", "use_distributed_sampler",
)  # fmt: skip
_NETWORK = ("model.head", "model.backbone", "task.float32_precision")
_IMAGES = (ROOT, "data.val", "data.eval_transform")
REACHING: dict[Command, tuple[str, ...]] = {
    "evaluate": (
        *_NETWORK, "inference", *_IMAGES, "data._target_", "data.eval_batch_size", "data.num_workers",
        "data.cache", "data.cache_gib", "task._target_", "task.channels_last",
        *(f"trainer.{name}" for name in EVALUATION),
    ),
    "predict": (*_NETWORK, "inference", "data.eval_transform", "data.eval_batch_size"),
    "explore": (*_NETWORK, *_IMAGES),
    "explore IMAGES": (*_NETWORK, "data.eval_transform"),
    "export": (),
    "cost": _NETWORK,
}  # fmt: skip
"""The keys, or beginnings of keys, that each command on a trained run obeys; see also `OF_TRAINING`."""
# What every configuration that training stores has, and commands read without a default.
_STORED = (
    "name", "seed", "data.train._target_", "data.val._target_", "data.eval_transform._target_",
    "model.backbone._target_", "model.head._target_", "optim._target_", "task._target_",
    *(f"trainer.{name}" for name in ("_target_", "accelerator", "devices", "num_nodes", "precision")),
)  # fmt: skip
ITERATIONS = ("model.head.iterations", "model.head.iterations_eval")
"""The keys that a command's option ``--iterations`` decides."""
OF_TRAINING = {
    "model.head": ("dropout", "gradient", "means", "momentum", "correct_momentum"),
    "model.backbone": ("weights", "activation_checkpointing"),
}
"""Options of hemnet's own heads and backbones that a trained network does not depend on in evaluation."""


def override(
    config: DictConfig, assignments: Sequence[str], command: Command, decided: Sequence[str] = ()
) -> DictConfig:
    """Return a checked copy of a run's configuration, changed by ``key=value`` in Hydra's grammar.

    ``data=NAME`` puts another data set in the place of the run's, see `hemnet.config.compose.other_data`; the
    other assignments change that, wherever they stand. With ``data.root`` change the paths in it, as that of
    the file of classes.

    Args:
        config: the run's.
        assignments: what the user gave.
        command: what the configuration is for.
        decided: keys that an option of the command has decided, as ``--iterations`` does.

    Raises:
        ConfigError: the run's configuration is damaged; an assignment has no ``=``, names an unknown key,
            contradicts another one, or does not reach the command; or a value is wrong.
    """
    from hemnet.training.inference import PLAIN  # here, since it needs torch

    _require_whole(config)
    changed = config.copy()
    if "inference" not in changed:  # a run of a version without this key
        changed.inference = {"_target_": "hemnet.training.inference.Inference", **asdict(PLAIN)}
    given = _read(assignments)
    for key, value in given.items():
        try:
            _set(changed, key, value)
        except OmegaConfBaseException as error:
            raise explain(error) from error
    check(changed)
    for key, value in given.items():
        for leaf, _ in [("data.val", value)] if _is_name(key, value) else leaves(value, key):
            if reason := _unreached(changed, leaf, command, decided):
                shown = key if _is_name(key, value) else leaf
                raise ConfigError(f"{shown} changes nothing in hemnet {command} of a trained run: {reason}")
    return changed


def _require_whole(config: DictConfig) -> None:
    """Raise a ConfigError if a stored configuration lacks a part that commands on a trained run need."""
    every = dict(leaves(OmegaConf.to_container(config)))
    if lacking := [key for key in _STORED if key not in every]:
        place = Path(str(config.get("run_dir"))) / "config.yaml"
        raise ConfigError(f"{place} lacks {shortened(lacking, 3)}: restore the file")


def _read(assignments: Sequence[str]) -> dict[str, Any]:
    """Return the values by their keys: first the data set, then its root, on which others may build."""
    given: dict[str, Any] = {}
    for assignment in assignments:
        parsed = parse_override(assignment)
        if parsed.is_sweep_override():
            raise ConfigError(f"{assignment}: several values; one is used here, and a list is written [a,b]")
        if parsed.is_delete():
            raise ConfigError(f"{assignment}: the keys of a trained run stay; write null for none")
        key, value = parsed.key_or_group, parsed.value()
        if key in given and given[key] != value:
            raise ConfigError(f"{key} is given twice, as {given[key]} and as {value}: give it once")
        given[key] = value
    first = [key for key in ("data", ROOT) if key in given]
    return {key: given[key] for key in [*first, *given]}


def _is_name(key: str, value: Any) -> bool:
    return key == "data" and isinstance(value, str)


def _set(config: DictConfig, key: str, value: Any) -> None:
    if _is_name(key, value):
        from hemnet.config.compose import other_data  # here, since it is slow to import

        config.data = other_data(value, config.data)
        return
    if key == ROOT and isinstance(value, str):
        config.data = moved(OmegaConf.to_container(config.data), OmegaConf.select(config, ROOT), value)
    if value == {} and OmegaConf.select(config, key):
        raise ConfigError(f"{key}={{}} changes nothing, since it names no key: give {key}.KEY=VALUE")
    OmegaConf.update(config, key, value, force_add=True)  # `check` knows which keys there may be


def _unreached(config: DictConfig, key: str, command: Command, decided: Sequence[str]) -> str | None:
    """Return why a changed key does not reach a command, and what does; None if it reaches it."""
    if key in decided:
        return "an option of the command decides it; leave one of the two out"
    if key == ROOT and "root" in config.data.val:
        return "the images of this run have a root of their own; give data.val.root"
    if key == "model.head.iterations" and config.model.head.get("iterations_eval") is not None:
        return "this run is evaluated with model.head.iterations_eval; give that"
    if _of_training(config, key):
        return "the key is of training alone; leave it out"
    if any(_reaches(config, key, part) for part in REACHING[command]):
        return None
    return _remedy(config, key, command)


def _remedy(config: DictConfig, key: str, command: Command) -> str:
    """Return, for a key that does not reach a command, what does."""
    group, _, name = key.rpartition(".")
    if key in SHARED:
        if name in config.model.head:
            return f"training gave its value to model.head.{name}; give that"
        return f"the head of this run has no {name}"
    of_val = key.replace("data.train.", "data.val.", 1)
    if of_val != key and below(of_val, REACHING[command]) and OmegaConf.select(config, of_val) is not None:
        return f"the training split is not read; give {of_val}"
    if group == "trainer" and command != "evaluate":
        return "the network runs in float32, on a GPU if torch finds one; CUDA_VISIBLE_DEVICES= hides GPUs"
    obeyed = [part for part in REACHING[command] if not part.endswith("_target_")]
    tops = list(dict.fromkeys(part.partition(".")[0] for part in obeyed))
    near = [part for part in obeyed if below(part, [key.partition(".")[0]])]
    listed = ", ".join(near) if near else f"only keys of {', '.join(tops) or 'nothing'}"
    return f"the command obeys {listed}"


def _of_training(config: DictConfig, key: str) -> bool:
    """Return whether a key is an option, of one of hemnet's own classes, that has no effect in evaluation."""
    return any(
        below(key, [f"{part}.{name}" for name in names])
        and str(OmegaConf.select(config, f"{part}._target_")).startswith("hemnet.")
        for part, names in OF_TRAINING.items()
    )


def _reaches(config: DictConfig, key: str, part: str) -> bool:
    """Return whether a key is in a part of the configuration, or a value there refers to it."""
    if below(key, [part]):
        return True
    tried = config.copy()
    OmegaConf.update(tried, key, "another value", merge=False, force_add=True)
    return _resolved(tried, part) != _resolved(config, part)


def _resolved(config: DictConfig, part: str) -> Any:
    node = OmegaConf.select(config, part)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
