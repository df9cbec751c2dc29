"""Unrolled highway expectation-maximization: the functions, and the layer built on them. Needs only torch."""

from hemnet.em.functional import EMResult, log_likelihood, unroll
from hemnet.em.layers import HighwayEM

__all__ = ["EMResult", "HighwayEM", "log_likelihood", "unroll"]
