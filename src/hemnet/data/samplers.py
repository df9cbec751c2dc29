"""Which samples a rank takes: shuffled for training, in order and each once for evaluation."""

from collections.abc import Iterator

import torch.distributed as dist
from torch.utils.data import Sampler

from hemnet.data.random_streams import stream
from hemnet.processes.ranks import distributed


class EpochSampler(Sampler[tuple[int, int]]):
    """Shuffled (epoch, index) pairs for training, sharded over the ranks of torch.distributed, if any.

    The order depends on (seed, epoch) alone. Rank r of R takes positions r, r + R, ... of it, so batch i of
    all ranks together is batch i of a single process with the same total batch size. The last length % R
    samples of the order are left out, so that every rank has the same number.

    Lightning calls `set_epoch`. The trainer needs `use_distributed_sampler=False`, else it would shard again.

    Args:
        length: number of samples.
        seed: seed of the order.
        start: the first epoch, and how many samples of it each rank skips.
    """

    def __init__(self, length: int, seed: int, start: tuple[int, int] = (0, 0)) -> None:
        self._length, self._seed, self._start, self._epoch = length, seed, start, start[0]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, >= 0, of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length // rank_and_world()[1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world = rank_and_world()
        epoch = self._epoch
        order = stream(self._seed, "shuffle", epoch).permutation(self._length).tolist()
        shard = order[: self._length - self._length % world][rank::world]
        first = self._start[1] if epoch == self._start[0] else 0
        return iter([(epoch, index) for index in shard[first:]])


class ShardSampler(Sampler[int]):
    """Indices in order for evaluation, each on exactly one rank; ranks may differ by one sample."""

    def __init__(self, length: int) -> None:
        self._length = length

    def _shard(self) -> range:
        rank, world = rank_and_world()
        return range(rank, self._length, world)

    def __len__(self) -> int:
        return len(self._shard())

    def __iter__(self) -> Iterator[int]:
        return iter(self._shard())


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of ranks; (0, 1) without torch.distributed."""
    return (dist.get_rank(), dist.get_world_size()) if distributed() else (0, 1)
