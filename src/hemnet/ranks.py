"""Which of several processes this is, known before torch.distributed is initialised."""

from pytorch_lightning.utilities.rank_zero import rank_zero_only


def rank() -> int:
    """Return this process's rank among those of the run, from the launcher's environment; else 0."""
    return int(getattr(rank_zero_only, "rank", 0))
