"""Measures a server with 4, 8 and 12 threads on 16 cores (the same shares of fewer), without a GPU.

    python -m benchmarks.cores [--processes default,1,2,4] [--seconds 3] [--json FILE]

MobileNetV3-small and JPEGs at 224 px, in each layout of processes. The floor is decoding and
onnxruntime alone in as many threads, before and after. It is the CPU half of `benchmarks.device`.
"""

from __future__ import annotations

import argparse

from benchmarks.device.__main__ import add_options, run
from benchmarks.device.isolated import cores
from benchmarks.device.setting import Layout


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    arguments = parser.parse_args()
    doubled = [2**power for power in range(len(cores()).bit_length()) if 2**power <= len(cores())]
    run(arguments, "cpu", ["cores"], arguments.processes or [Layout(), *map(Layout, doubled)])


if __name__ == "__main__":
    main()
