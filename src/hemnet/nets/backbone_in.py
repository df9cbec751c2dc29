"""Finds the tensors of a backbone among those of a checkpoint, whatever wraps them."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hemnet.errors import HemnetError
from hemnet.wording import shortened

log = logging.getLogger(__name__)

# Of two networks trained together, the one whose features their authors use: MoCo's and DINO's.
PREFERRED = ("encoder_q", "teacher")
REMEDY = "set model.backbone.weights to the path of a downloaded checkpoint, or to null for random weights"
Names = Callable[[str], str | None]


def find_backbone(
    network: nn.Module, tensors: Mapping[str, Tensor], path: Path, own_name: Names, prefix: str | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint that are a backbone's, by their names in the backbone.

    They all have one prefix. Under it is every tensor of the backbone, with its shape. What else is there,
    such as a head, is left out; but a tensor whose name begins as those of the backbone do, such as
    ``layer3.9``, is of a larger backbone, and is refused.

    Args:
        network: the backbone.
        tensors: all tensors of the checkpoint.
        path: of the checkpoint, for messages.
        own_name: see `load_pretrained`.
        prefix: the one to use; None finds it.

    Raises:
        HemnetError: no prefix fits, and the message says which came nearest; or several with other values.
    """
    own = network.state_dict()
    # Checkpoints from before PyTorch 0.4.1 lack this counter, which nothing uses.
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    seen = (
        _prefixes(own, tensors, own_name) if prefix is None else [prefix.rstrip(".") + "." if prefix else ""]
    )
    if not seen:
        tops = sorted({name.partition(".")[0] for name in tensors})
        raise HemnetError(
            f"{path} does not fit this backbone: none of its names ends as {next(iter(own))} does; they "
            f"begin with {shortened(tops)}: {REMEDY}"
        )
    found = [_under(own, counters, tensors, each, own_name) for each in seen]
    fitting = _distinct([each for each in found if not each.faults])
    if not fitting:
        raise HemnetError(_misfit(path, min(found, key=lambda each: each.faults), seen))
    preferred = [each for each in fitting if set(PREFERRED) & set(each.prefix.split("."))]
    chosen = preferred if len(preferred) == 1 else fitting
    prefixes = [repr(each.prefix) for each in fitting]
    if len(chosen) > 1:
        raise HemnetError(
            f"{path} holds {len(fitting)} backbones that fit, under {shortened(prefixes)}: choose one with "
            f"model.backbone.weights='{path}#{fitting[0].prefix.rstrip('.')}'"
        )
    (backbone,) = chosen
    log.info(
        "the backbone's weights are those in %s%s",
        path,
        f" under {backbone.prefix!r}" if backbone.prefix else "",
    )
    if len(fitting) > 1:
        log.warning("%s: taken are those under %r, of %s", path, backbone.prefix, shortened(prefixes))
    return counters | backbone.state


@dataclass(frozen=True)
class _Found:
    """What is under a prefix, and the names at which it differs from the backbone."""

    prefix: str
    state: dict[str, Tensor]
    missing: list[str]
    unknown: list[str]
    misshaped: list[str]

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.unknown) + len(self.misshaped)


def _prefixes(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], own_name: Names) -> list[str]:
    """Return the prefixes under which there are most names of the backbone, or at least half as many."""
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for i in range(len(parts)):
            if _mapped(".".join(parts[i:]), own_name) in own:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    most = max(counts.values(), default=0)
    return [prefix for prefix, count in counts.most_common() if 2 * count >= most]


def _mapped(name: str, own_name: Names) -> str | None:
    try:
        return own_name(name)
    except (KeyError, IndexError, ValueError):
        return name


def _under(
    own: Mapping[str, Tensor], counters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str,
    own_name: Names,
) -> _Found:  # fmt: skip
    there = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    mapped = [(name, _mapped(name, own_name), value) for name, value in there.items()]
    state = {mine: value for _, mine, value in mapped if mine is not None and mine in own}
    used = {_top(name) for name, mine, _ in mapped if mine in own} | {_top(name) for name in own}
    unknown = [
        name for name, mine, _ in mapped if mine is not None and mine not in own and _top(name) in used
    ]
    missing = sorted(own.keys() - state.keys() - counters.keys())
    misshaped = sorted(name for name, value in state.items() if value.shape != own[name].shape)
    return _Found(prefix, state, missing, sorted(unknown), misshaped)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _distinct(found: list[_Found]) -> list[_Found]:
    """Leave out what has the same values as an earlier one."""
    kept: list[_Found] = []
    for each in found:
        if not any(_equal(each.state, other.state) for other in kept):
            kept.append(each)
    return kept


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _misfit(path: Path, best: _Found, seen: list[str]) -> str:
    where = (
        f" under {best.prefix!r}, which matches best of {shortened([*map(repr, seen)])}"
        if seen != [""]
        else ""
    )
    example = (best.missing or best.unknown or best.misshaped)[0]
    return (
        f"{path} does not fit this backbone:{where} {len(best.missing)} tensors missing, {len(best.unknown)} "
        f"unknown, {len(best.misshaped)} of another shape (first: {example}); set model.backbone.depth, stem "
        "and width (or variant) to those of the checkpoint"
    )
