"""Metrics of one machine: the speed of its GPU and cores with limelens, relative to their floor.

Each metric is compared with its floor in the same run: onnxruntime alone on the same device. A part
that fails is reported and the others continue. Without a GPU only the CPU half runs.

    python -m benchmarks.device [--only sizes explain …] [--processes 4,4+device] [--seconds 3]
        [--json FILE] [--device cuda] [--limit 460]

It needs neither an installed limelens nor the data sets: a checkout and PYTHONPATH are enough. The
networks are made on the first run (torch, torchvision, onnxscript), under build/.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.device import bundles, cpu, servers
from benchmarks.device.floors import Device
from benchmarks.device.report import Report, describe
from benchmarks.device.setting import Layout, Setting, known_layouts, machine, models

PARTS: Final[dict[str, Callable[[Setting], None]]] = {
    "sizes": bundles.sizes,
    "explain": bundles.explanations,
    "start": servers.start,
    "classify": servers.classify,
    "networks": servers.networks,
    "cores": cpu.throughput,
    "precision": bundles.precisions,
}
_CPU_HALF: Final = ("cores",)


def main() -> None:
    """Measures and prints one table; exit code 1 where a part failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="these parts alone")
    parser.add_argument(
        "--device",
        choices=("auto", "cuda", "cpu"),
        default="auto",
        help="cpu runs the parts that --only names without a GPU too",
    )
    arguments = parser.parse_args()
    found: Device = "cpu"
    if arguments.device == "cuda" or (arguments.device == "auto" and _has_cuda()):
        found = "cuda"
    only = arguments.only or (list(PARTS) if found == "cuda" else _CPU_HALF)
    run(arguments, found, only, arguments.processes or [Layout()])


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark and of its CPU half."""
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument(
        "--processes",
        type=_layouts,
        metavar="N,…",
        help="layouts of servers to compare: numbers, or `default` for the server's own choice; "
        "`+device` adds a process that owns the device",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics to FILE")
    parser.add_argument(
        "--limit", type=float, default=460.0, metavar="S", help="no measurement begins later"
    )


def run(
    arguments: argparse.Namespace,
    device: Device,
    only: Sequence[str],
    layouts: Sequence[Layout],
) -> None:
    """Runs the parts, one after the other, and exits."""
    began = time.monotonic()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    report = Report(machine(), arguments.json)
    report.note(describe(report.machine))
    setting = Setting(
        device,
        arguments.seconds,
        known_layouts(layouts, report),
        report,
        began + arguments.limit,
    )
    report.note("making missing networks …")
    with report.surviving("making the networks"):
        models()
    for name in () if report.failures else only:
        report.note(f"{name} …")
        with report.surviving(name):
            PARTS[name](setting)
    report.print_table()
    sys.exit(1 if report.failures else 0)


def _has_cuda() -> bool:
    """Whether there is a GPU and an onnxruntime that was built for it."""
    import onnxruntime

    has_provider = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return has_provider and bool(machine()["gpu"])


def _layouts(text: str) -> list[Layout]:
    found = []
    for one in text.split(","):
        number, plus, device = one.partition("+")
        if (plus and device != "device") or not (number == "default" or number.isdecimal()):
            raise argparse.ArgumentTypeError(f"{one!r}; expected such as 1,4,default,4+device")
        processes = None if number == "default" else int(number)
        if processes == 0:
            raise argparse.ArgumentTypeError(f"{one!r}; expected numbers of 1 or more")
        found.append(Layout(processes, bool(plus)))
    return found


if __name__ == "__main__":
    main()
