"""The jobs of several grids of settings at once."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from hemnet.errors import HemnetError

Axes = Mapping[str, Sequence[str]]
"""Per key, the ``key=value`` of each of its values."""


def union(shared: Axes, grids: Mapping[str, Axes], given: Axes) -> list[list[str]]:
    """Return the overrides of each job: every combination of the axes of each grid.

    Args:
        shared: axes of all grids. They turn slowest, the first of them slowest of all, across all grids:
            with seeds there, every setting of every grid has its first seed before any has its second.
        grids: the further axes of each grid, by its name; without one, there are the shared axes alone.
        given: axes of the command line. One takes the place of that key's in every grid that has it, else of
            the shared one; a key that is nowhere is a shared axis.

    Returns:
        Overrides in the order of the axes, shared ones first; a combination that two grids have, once.

    Raises:
        HemnetError: an axis is both shared and a grid's.
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
