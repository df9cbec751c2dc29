"""Unrolled highway expectation-maximization layers for segmentation networks."""

__version__ = "0.2.0"
