"""Measurements, each run by `python -m benchmarks.NAME`; comparisons are made within one run."""
