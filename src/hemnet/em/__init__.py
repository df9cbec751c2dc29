"""Unrolled highway expectation-maximization: the functions, and the layer built on them. Needs only torch."""

import hemnet.em.gradient.flops  # noqa: F401  so that torch's FLOP counter has the formulas
from hemnet.em.functional import component_means, log_likelihood, responsibilities
from hemnet.em.gradient.implicit import ConvergenceError, ConvergenceWarning, Implicit
from hemnet.em.gradient.modes import Detached, OneStep, Unrolled
from hemnet.em.initial_means import InitialMeans
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
    "InitialMeans",
    "OneStep",
    "Unrolled",
    "component_means",
    "log_likelihood",
    "responsibilities",
    "unroll",
]
