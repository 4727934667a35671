"""Metrics of one machine, its GPU and its cores, each with its floor in the same run.

`python -m benchmarks.device` measures them; the CPU half alone is `python -m benchmarks.cores`.
"""
