"""The ranks of a run: this process's number, and what all of them hold.

torch and Lightning are imported where they are needed: commands that train nothing import this module too.
"""

from typing import Any, TypeVar

T = TypeVar("T")


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
