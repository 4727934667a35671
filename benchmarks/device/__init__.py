"""All figures of one machine, its GPU and its cores, each with the floor of the same run.

`python -m benchmarks.device` measures them; the CPU half alone is `python -m benchmarks.cores`.
"""
