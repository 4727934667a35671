"""Measurements, each run by `python -m benchmarks.NAME`; all compared in one run."""
