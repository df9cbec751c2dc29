"""The options of a fit as one value that checks itself: names, ranges, and the errors that name a bad one.

Shape suffixes: B images, N positions, C channels, K components.
"""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, get_args

from torch import Tensor

Assignment = Literal["gaussian", "dot"]
Normalization = Literal["none", "l2"]
Engine = Literal["auto", "reference", "recompute", "triton"]
Acceleration = Literal["none", "anderson"]


@dataclass(frozen=True)
class Mixture:
    """The fixed settings of the model: variance, E-step, normalisation.

    Attributes:
        variance: σ², a finite number above 0.
        assignment: the E-step, see `hemnet.em.functional.responsibilities`.
        normalize: what happens to the means after each step, see `hemnet.em.functional.normalize_means`.

    Raises:
        ValueError: naming the option, the value and what is accepted.
    """

    variance: float
    assignment: Assignment
    normalize: Normalization

    def __post_init__(self) -> None:
        check_name("assignment", self.assignment, get_args(Assignment))
        check_name("normalize", self.normalize, get_args(Normalization))
        check_variance(self.variance)


@dataclass(frozen=True)
class Options(Mixture):
    """A mixture, and how it is fitted; `hemnet.em.unroll` describes each option.

    This is the one list of options between the public functions and torch's operators: it is made where the
    user's keywords arrive, and everything below is handed the whole value. How a fit is differentiated is a
    `hemnet.em.gradient.modes.GradientMode`.

    Attributes:
        engine: what computes the passes over the features.
        acceleration: "anderson", or "none" for plain steps.
        tolerance: relative length of a step below which an image stops; None for no image ever.

    Raises:
        ValueError: naming the option, the value and what is accepted.
    """

    engine: Engine
    acceleration: Acceleration
    tolerance: float | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("engine", self.engine, get_args(Engine))
        check_name("acceleration", self.acceleration, get_args(Acceleration))
        number = self.tolerance
        if number is not None and (not is_number(number) or not 0 < number < math.inf):
            raise ValueError(f"tolerance is {number!r}; it must be None or a finite number above 0")
        if self.acceleration != "none" and (self.assignment, self.normalize) != ("gaussian", "none"):
            raise ValueError(
                f"acceleration={self.acceleration!r} is guarded by the log-likelihood, which needs "
                "assignment='gaussian' and normalize='none'; they are "
                f"{self.assignment!r} and {self.normalize!r}"
            )


def temperature(variance: float | None, channels: int) -> float:
    """Return the variance that was asked for, sqrt(C) if it was left open.

    Raises:
        ValueError: if it is not a finite number above 0.
    """
    if variance is None:
        return math.sqrt(channels)
    check_variance(variance)
    return float(variance)


def check_name(option: str, value: object, accepted: tuple[str, ...], otherwise: str = "") -> None:
    """Refuse with a ValueError a value that is none of the accepted words, nor `otherwise`, which is said."""
    if value not in accepted:
        words = ", ".join(map(repr, accepted)) + (f", {otherwise}" if otherwise else "")
        raise ValueError(f"{option} is {value!r}; it must be one of {words}")


def as_count(name: str, value: int, least: int = 0) -> int:
    """Return a whole number, of Python or NumPy, as an int.

    Raises:
        ValueError: naming the option, if it is no whole number, or less than the least.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be an int, {least} or more")
    return int(value)


def check_variance(variance: float) -> None:
    """Refuse with a ValueError a variance that is not a finite number above 0."""
    if not is_number(variance) or not 0 < variance < math.inf:
        raise ValueError(f"variance is {variance!r}; it must be a finite number above 0")


def is_number(value: object) -> bool:
    """Whether a value is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_weights(weights_BN: Tensor, x_BNC: Tensor) -> None:
    """Refuse with a ValueError weights that are not one number or truth value per position, (B or 1, N).

    Their values are not read: that would wait for the device.
    """
    if weights_BN.ndim != 2 or weights_BN.shape[0] not in (1, x_BNC.shape[0]) or weights_BN.is_complex():
        raise ValueError(
            f"the weights are a {weights_BN.dtype} tensor of shape {tuple(weights_BN.shape)}; they must be "
            "numbers or truth values, one per position: (B or 1, N) for features (B, N, C) = "
            f"{tuple(x_BNC.shape)}"
        )
    if weights_BN.shape[1] != x_BNC.shape[1]:
        raise ValueError(
            f"there are {weights_BN.shape[1]} weights for {x_BNC.shape[1]} positions; give one per position"
        )
    if weights_BN.requires_grad:
        raise ValueError("the weights require a gradient, and none reaches them: give weights.detach()")


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
