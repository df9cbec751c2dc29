"""The options of a fit as one value that checks itself: names, ranges, and the errors that name a bad one.

Shape suffixes: B images, N positions, C channels, K components.
"""

import math
from dataclasses import dataclass, field
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
        variances: σ² or one σ_k² per component as a tensor, in the place of `variance`; see
            `hemnet.em.unroll`.
        prior: π_k as a tensor, likewise; 1/K if None. The tensors are for the engine "reference" alone.

    Raises:
        ValueError: naming the option, the value and what is accepted.
    """

    variance: float
    assignment: Assignment
    normalize: Normalization
    variances: Tensor | None = field(default=None, kw_only=True)
    prior: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_name("assignment", self.assignment, get_args(Assignment))
        check_name("normalize", self.normalize, get_args(Normalization))
        check_variance(self.variance)

    @property
    def spread(self) -> float | Tensor:
        """σ² as it was given, a number or a tensor."""
        return self.variance if self.variances is None else self.variances

    @property
    def has_tensors(self) -> bool:
        """Whether a part of the model is a tensor."""
        return self.variances is not None or self.prior is not None


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
        if self.has_tensors and self.engine not in ("auto", "reference"):
            raise ValueError(
                f"engine={self.engine!r} takes the variance as a number and no prior; with tensors, and "
                "where they are learned, take engine='auto', which is 'reference' then"
            )
        if self.acceleration != "none" and (self.assignment, self.normalize) != ("gaussian", "none"):
            raise ValueError(
                f"acceleration={self.acceleration!r} is guarded by the log-likelihood, which needs "
                "assignment='gaussian' and normalize='none'; they are "
                f"{self.assignment!r} and {self.normalize!r}"
            )


def temperature(variance: float | Tensor | None, channels: int) -> float:
    """Return the variance that was asked for, sqrt(C) if it was left open or is a tensor, see `Mixture`.

    Raises:
        ValueError: if it is not a finite number above 0.
    """
    if variance is None or isinstance(variance, Tensor):
        return math.sqrt(channels)
    check_variance(variance)
    return float(variance)


def check_name(option: str, value: object, accepted: tuple[str, ...], otherwise: str = "") -> None:
    """Refuse with a ValueError a value that is none of the accepted words, nor `otherwise`, which is said."""
    if value not in accepted:
        words = ", ".join(map(repr, accepted)) + (f", {otherwise}" if otherwise else "")
        raise ValueError(f"{option} is {value!r}; it must be one of {words}")


MOST = 1_000_000
"""The largest count of iterations, components or channels; more is a slip of the pen, and fits no memory."""


def as_count(name: str, value: int, least: int = 0) -> int:
    """Return a whole number, of Python or NumPy, as an int.

    Raises:
        ValueError: naming the option, if it is no whole number, less than the least, or above `MOST`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be an int, {least} or more")
    if value > MOST:
        raise ValueError(f"{name} is {value!r}; it must be {MOST} or less")
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


def check_model(
    variance: float | Tensor, prior: Tensor | None, mu_BKC: Tensor, assignment: Assignment = "gaussian"
) -> None:
    """Refuse with a ValueError a variance or a prior that does not fit the means, (B or 1, K, C).

    The values of tensors are not read: that would wait for the device.
    """
    images, components, _ = mu_BKC.shape
    each = [(components,), (1, components), (images, components)]
    if isinstance(variance, Tensor):
        _check_tensor("variance", variance, [(), (1,), (1, 1), (images, 1), *each], mu_BKC)
        if assignment == "dot" and variance.ndim and variance.shape[-1] > 1:
            raise ValueError(
                "one variance per component needs assignment='gaussian': under 'dot' |x_n|² does not cancel, "
                "and the responsibilities are those of no mixture. Give one variance, of shape () or (1,)"
            )
    else:
        check_variance(variance)
    if prior is not None:
        _check_tensor("prior", prior, each, mu_BKC)


def _check_tensor(name: str, tensor: Tensor, shapes: list[tuple[int, ...]], mu_BKC: Tensor) -> None:
    if tuple(tensor.shape) not in shapes or not tensor.is_floating_point():
        raise ValueError(
            f"{name} is a {tensor.dtype} tensor of shape {tuple(tensor.shape)}; for means of shape "
            f"{tuple(mu_BKC.shape)} it must be floating, of shape "
            + " or ".join(map(str, dict.fromkeys(shapes)))
        )


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
