"""Benchmarks of the library: ``python -m hemnet.bench {em,data,ddp} --help``."""
