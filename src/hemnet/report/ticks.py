"""Ticks of logarithmic axes, two or more, at 1, 2, 5 or powers of ten, in plain numbers; of iterations."""

import math
from collections.abc import Sequence

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

MOST = 6
"""Most ticks of an axis: what fits beside a chart of an inch."""


def log_ticks(axis: Axis) -> None:
    """Set the ticks of a logarithmic axis, and labels without mathematical typesetting."""
    axis.set_major_locator(PlainLogLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))
    axis.set_minor_locator(NullLocator())


class PlainLogLocator(LogLocator):
    """Places ticks by `ticks_between`; limits are chosen as matplotlib does for a logarithmic axis.

    Around values that rounding alone sets apart there is a decade on each side: matplotlib warns of limits so
    close, and has limits that are the same for some values near a power of ten.
    """

    def nonsingular(self, vmin: float, vmax: float) -> tuple[float, float]:
        """Return the limits of an axis for values from ``vmin`` to ``vmax``."""
        low, high = sorted((vmin, vmax))
        if low > 0 and high < math.inf and math.isclose(low, high):
            return low / 10, high * 10
        low, high = super().nonsingular(low, high)
        return float(low), float(high)

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Return the ticks of an axis from ``vmin`` to ``vmax``."""
        return ticks_between(*sorted((vmin, vmax)))


def ticks_between(low: float, high: float) -> list[float]:
    """Return 2 to `MOST` round numbers from ``low`` to ``high``, which are positive.

    These are the first of the following with at least three numbers, else with two, and at most `MOST`:
    1, 2 and 5 times powers of ten; in less than a decade, numbers at equal distances; powers of ten; every
    second of them, every third and so on. An axis from a number to itself has that number alone.
    """
    if not 0 < low < high:
        return [low] if low == high else []
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    sets = [[f"{m}e{e}" for e in tens for m in (1, 2, 5)]]
    if high < 10 * low:
        sets += _even(low, high)
    sets += [[f"1e{e}" for e in tens if e % stride == 0] for stride in range(1, len(tens) + 1)]
    inside = [[tick for tick in map(float, numbers) if low <= tick <= high] for numbers in sets]
    inside = [ticks for ticks in inside if len(ticks) <= MOST]
    return next((ticks for least in (3, 2) for ticks in inside if len(ticks) >= least), [low, high])


def _even(low: float, high: float) -> list[list[str]]:
    """Return numbers at equal distances, 1, 2 or 5 times a power of ten, from the closest to the widest."""
    unit = math.floor(math.log10(high - low)) - 1
    steps = (1, 2, 5, 10, 20)
    first, last = math.floor(low / 10**unit), math.ceil(high / 10**unit)
    return [[f"{n}e{unit}" for n in range(first, last + 1) if n % step == 0] for step in steps]


def iteration_ticks(last: int) -> range:
    """Return whole numbers at equal distances from 0 to the last iteration, which has a tick too."""
    parts = last if last <= 5 else next((parts for parts in (4, 3, 5, 2) if last % parts == 0), 1)
    return range(0, last + 1, max(1, last // max(1, parts)))


def label(value: float) -> str:
    """Return a plain number: 0.001, 0.5, 2000; below 0.0001 and from 100000 such as 2e-5."""
    if value and not 1e-4 <= abs(value) < 1e5:
        digits, _, exponent = f"{value:.11e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.12f}".rstrip("0").rstrip(".")
