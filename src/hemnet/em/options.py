"""The options of an unrolled EM layer: their names, their ranges, and the errors that name a bad one.

Shape suffixes: B images, N positions, C channels, K components.
"""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Literal, get_args

from torch import Tensor

Assignment = Literal["gaussian", "dot"]
Normalization = Literal["none", "l2"]
Gradient = Literal["unrolled", "detached", "one_step", "implicit"]
Engine = Literal["auto", "reference", "recompute", "triton"]
Acceleration = Literal["none", "anderson"]
HighwayScale = float | Sequence[float] | Tensor

_ACCEPTED: dict[str, tuple[str, ...]] = {
    "assignment": get_args(Assignment),
    "normalize": get_args(Normalization),
    "gradient": get_args(Gradient),
    "engine": get_args(Engine),
    "acceleration": get_args(Acceleration),
}


def check_options(
    iterations: int,
    highway_scale: HighwayScale,
    variance: float | None,
    *,
    assignment: str,
    normalize: str,
    gradient: str,
    engine: str,
    acceleration: str,
    tolerance: float | None,
) -> None:
    """Refuse options, or combinations of them, that `unroll` does not define; its docstring gives the ranges.

    Raises:
        ValueError: naming the option, the value and what is accepted.
    """
    chosen = {
        "assignment": assignment,
        "normalize": normalize,
        "gradient": gradient,
        "engine": engine,
        "acceleration": acceleration,
    }
    for name, value in chosen.items():
        if value not in _ACCEPTED[name]:
            accepted = ", ".join(repr(word) for word in _ACCEPTED[name])
            raise ValueError(f"{name} is {value!r}; it must be one of {accepted}")
    check_iterations("iterations", iterations)
    if variance is not None:
        check_variance(variance)
    if tolerance is not None and (not _is_number(tolerance) or not 0 < tolerance < math.inf):
        raise ValueError(f"tolerance is {tolerance!r}; it must be None or a finite number above 0")
    _check_highway_scale(highway_scale, iterations)
    _check_together(iterations, assignment, normalize, gradient, engine, acceleration)


def _check_together(
    iterations: int, assignment: str, normalize: str, gradient: str, engine: str, acceleration: str
) -> None:
    if gradient == "implicit" and iterations == 0:
        raise ValueError("gradient='implicit' needs iterations: means that were not moved are no fixed point")
    if gradient == "implicit" and engine == "reference":
        raise ValueError(
            "gradient='implicit' solves a linear system and has no plain autograd form; use engine='auto'"
        )
    if acceleration != "none" and (assignment, normalize) != ("gaussian", "none"):
        raise ValueError(
            f"acceleration={acceleration!r} is guarded by the log-likelihood, which needs "
            f"assignment='gaussian' and normalize='none'; they are {assignment!r} and {normalize!r}"
        )
    if acceleration != "none" and (gradient == "unrolled" or engine == "reference"):
        raise ValueError(
            f"acceleration={acceleration!r} has neither an unrolled gradient nor a plain autograd form; use "
            "gradient='implicit', 'one_step' or 'detached', and engine='auto'"
        )


def _check_highway_scale(highway_scale: HighwayScale, iterations: int) -> None:
    if isinstance(highway_scale, Tensor):
        if highway_scale.shape not in ((), (iterations,)) or not highway_scale.is_floating_point():
            raise ValueError(
                f"highway_scale is a {highway_scale.dtype} tensor of shape {tuple(highway_scale.shape)}; "
                f"it must be floating, of shape () or ({iterations},), one value per iteration"
            )
        return
    values = highway_scale if isinstance(highway_scale, Sequence) else [highway_scale]
    if isinstance(highway_scale, Sequence) and len(values) != iterations:
        raise ValueError(
            f"highway_scale has {len(values)} values for {iterations} iterations; "
            "give one number, or one per iteration"
        )
    for h in values:
        if not _is_number(h) or not -1 < h < 1:
            raise ValueError(
                f"highway_scale is {h!r}; it must be a number inside (-1, 1), where the likelihood never "
                "falls with Gaussian assignments. 0 is plain EM; for means that stay put use iterations=0"
            )


def check_iterations(name: str, iterations: int) -> None:
    """Refuse with a ValueError a number of iterations, under the name of its option, that is not one."""
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"{name} is {iterations!r}; it must be an int, 0 or more")


def check_variance(variance: float) -> None:
    """Refuse with a ValueError a variance that is not a finite number above 0."""
    if not _is_number(variance) or not 0 < variance < math.inf:
        raise ValueError(f"variance is {variance!r}; it must be a finite number above 0")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_shapes(x_BNC: Tensor, mu_BKC: Tensor) -> None:
    """Refuse with a ValueError features and means that are not floating (B, N, C) and (B or 1, K, C)."""
    for name, tensor, shape in (("x", x_BNC, "(B, N, C)"), ("mu", mu_BKC, "(B, K, C) or (1, K, C)")):
        if tensor.ndim != 3 or not tensor.is_floating_point():
            raise ValueError(
                f"{name} is a {tensor.dtype} tensor of shape {tuple(tensor.shape)}; "
                f"it must be floating, of shape {shape}"
            )
    if (
        mu_BKC.shape[2] != x_BNC.shape[2]
        or mu_BKC.shape[0] not in (1, x_BNC.shape[0])
        or mu_BKC.shape[1] == 0
    ):
        raise ValueError(
            f"mu has shape {tuple(mu_BKC.shape)} and x {tuple(x_BNC.shape)}; they must be (B or 1, K, C) and "
            "(B, N, C) with the same C and at least one component"
        )
