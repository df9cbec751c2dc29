"""Unrolled highway expectation-maximization layers for segmentation networks."""

__version__ = "0.1.0"
