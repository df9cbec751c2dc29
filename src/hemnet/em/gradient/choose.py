"""Which gradient mode: by name, or as an object with options of its own."""

from typing import Literal

from hemnet.em.gradient.implicit import Implicit
from hemnet.em.gradient.modes import Detached, GradientMode, OneStep, Unrolled
from hemnet.em.options import check_name

Gradient = Literal["unrolled", "detached", "one_step", "implicit"] | GradientMode
MODES: dict[str, type[GradientMode]] = {mode.name: mode for mode in (Unrolled, Detached, OneStep, Implicit)}


def choose_mode(gradient: Gradient) -> GradientMode:
    """Return the mode that is given, or the one with default options whose name is given.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(gradient, GradientMode):
        return gradient
    check_name("gradient", gradient, tuple(MODES), "or an object such as hemnet.em.Implicit()")
    return MODES[gradient]()
