"""The unrolled iterations forward and backward, and the gradient at a fixed point."""
