"""Which of several processes this is, known before torch.distributed is initialised, and whether it is."""

import torch.distributed as dist
from pytorch_lightning.utilities.rank_zero import rank_zero_only


def rank() -> int:
    """Return this process's rank among those of the run, from the launcher's environment; else 0."""
    return int(getattr(rank_zero_only, "rank", 0))


def distributed() -> bool:
    """Return whether torch.distributed connects this process with others."""
    return dist.is_available() and dist.is_initialized()
