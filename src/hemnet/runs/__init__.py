"""A run directory and its files: configuration, result, checkpoints, provenance, evaluations."""
