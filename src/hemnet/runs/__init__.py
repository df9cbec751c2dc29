"""A run directory and what stands in it: configuration, result, checkpoints, provenance, evaluations."""
