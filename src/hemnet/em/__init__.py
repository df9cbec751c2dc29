"""Unrolled highway expectation-maximization: the functions, and the layer built on them. Needs only torch."""

from hemnet.em.functional import log_likelihood
from hemnet.em.gradient.implicit import ConvergenceError, ConvergenceWarning, Implicit
from hemnet.em.gradient.modes import Detached, OneStep, Unrolled
from hemnet.em.layers import HighwayEM
from hemnet.em.result import Diagnostics, EMResult, GradientFlow
from hemnet.em.unrolling import unroll

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "Detached",
    "Diagnostics",
    "EMResult",
    "GradientFlow",
    "HighwayEM",
    "Implicit",
    "OneStep",
    "Unrolled",
    "log_likelihood",
    "unroll",
]
