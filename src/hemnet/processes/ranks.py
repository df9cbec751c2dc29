"""The ranks of a run: this process's number, and what all of them hold.

torch and Lightning are imported where they are needed: commands that train nothing import this module too.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def asked_devices(devices: Any) -> int | None:
    """Return how many devices ``trainer.devices`` asks for, as Lightning reads it; None is all of them.

    A list, also as a string such as "0,2", has the numbers of the devices; "auto" and -1 are None.
    """
    if isinstance(devices, str) and "," in devices:
        return sum(bool(part.strip()) for part in devices.split(","))
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    text = str(devices).strip()
    return int(text) if text.removeprefix("-").isdecimal() and text != "-1" else None


def rank() -> int:
    """Return this process's rank, from the launcher's environment before torch.distributed starts; else 0."""
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0))


def distributed() -> bool:
    """Return whether torch.distributed connects this process to other ranks."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def all_ranks(own: T, group: Any = None) -> list[T]:
    """Return the value of ``own`` on each rank, in the order of the ranks; every rank must call this.

    Args:
        own: what this rank contributes; anything that can be pickled.
        group: the process group of torch.distributed; None is the default group.
    """
    import torch.distributed as dist

    if not distributed():
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own, group=group)
    return found
