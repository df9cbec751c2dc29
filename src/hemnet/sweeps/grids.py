"""The jobs of a sweep over the union of several grids."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from hemnet.errors import HemnetError

Axes = Mapping[str, Sequence[str]]
"""By key, the override ``key=value`` of each of its values."""


def union(shared: Axes, grids: Mapping[str, Axes], given: Axes) -> list[list[str]]:
    """Return the overrides of each job: every combination of the axes of each grid.

    Args:
        shared: the axes that all grids have. They vary slowest, the first one slowest of all: if it is the
            seed, every combination of every grid runs with the first seed before any runs with the second.
        grids: the further axes of each grid, by the grid's name; {} means one grid of the shared axes.
        given: axes from the command line. Such an axis replaces the axis of the same key in every grid that
            has it, otherwise in ``shared``; an axis with a new key is added to ``shared``.

    Returns:
        The overrides of each job, shared axes first. A combination that two grids have in common occurs once.

    Raises:
        HemnetError: an axis is both in ``shared`` and in a grid.
    """
    for name, grid in grids.items():
        if twice := sorted(shared.keys() & grid.keys()):
            raise HemnetError(
                f"hydra.sweeper: {', '.join(twice)} in params and in the grid {name}: leave it in one of them"
            )
    of_a_grid = {key for grid in grids.values() for key in grid}
    common = {**shared, **{key: values for key, values in given.items() if key not in of_a_grid}}
    own = [{key: given.get(key, values) for key, values in grid.items()} for grid in grids.values()] or [{}]
    jobs = {tuple(sorted(job)): job for job in _combined(common, own)}
    return list(jobs.values())


def _combined(common: Axes, grids: Sequence[Axes]) -> Iterator[list[str]]:
    for slow in product(*common.values()):
        for grid in grids:
            for fast in product(*grid.values()):
                yield [*slow, *fast]
