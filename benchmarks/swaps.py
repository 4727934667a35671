"""Measures whether new versions take over unnoticed: failed calls, latency, memory.

A server runs in a separate process and is called without pause: several callers classify, one
explains, a camera streams. Meanwhile new versions keep appearing, and old ones are removed.
Latencies with and without swaps come from the same run.

    python -m benchmarks.swaps [--swaps 100] [--memory-swaps 30] [--model MODEL.onnx]
        [--processes 2] [--device-process]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.traffic import Call, ServerProcess, Traffic, percentile_ms
from limelens.cli.serving import default_models

_NAME = "swapped"
_SETTLED = 5
"""Swaps after which memory is compared, and over how many: by then two models were in memory at
once, and explanations make readings vary.
"""


@dataclass(frozen=True)
class SwapsRun:
    """The measurements.

    Args:
        swaps: Versions that took over.
        calls: Every call from the first swap on.
        baseline: Calls before it.
        seconds: From publishing a version to its first answers, one for each swap.
        pss_bytes: Of the server, before the first swap and after each.
    """

    swaps: int
    calls: list[Call]
    baseline: list[Call]
    seconds: list[float]
    pss_bytes: list[int]

    @property
    def failed(self) -> list[Call]:
        """Calls that failed."""
        return [one for one in [*self.baseline, *self.calls] if one.error]


def publish(models: Path, bundle: Path, version: int) -> None:
    """Publishes a version as `limelens export` does: writes a hidden folder and renames it."""
    beside = models / _NAME / f".{version}"
    beside.mkdir(parents=True)
    shutil.copyfile(bundle, beside / "model.onnx")
    beside.rename(models / _NAME / str(version))


def swap_under_load(
    bundle: Path,
    image: NDArray[np.uint8],
    *,
    swaps: int,
    callers: int = 3,
    num_samples: int = 200,
    calm_s: float = 3.0,
    options: Sequence[str] = (),
) -> SwapsRun:
    """Serves a bundle, and swaps it while it is called.

    Args:
        bundle: The file; every version is a copy.
        image: The image of every call.
        swaps: How often.
        callers: How many classify.
        num_samples: Of each explanation.
        calm_s: How long calls go on before the first swap.
        options: More of `limelens serve`.
    """
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        publish(models, bundle, 1)
        usual = ("--reload-s", "0.2", "--versions", "latest", "--log-level", "error")
        with ServerProcess(models, *usual, *options) as server:
            with Traffic(
                server.address, image, callers=callers, num_samples=num_samples
            ) as traffic:
                traffic.wait_for(1, {"classify", "explain", "frame"})
                time.sleep(calm_s)
                baseline = len(traffic.calls)
                memory = [server.pss_bytes()]
                for version in range(2, swaps + 2):
                    publish(models, bundle, version)
                    seconds.append(traffic.wait_for(version, {"classify", "explain", "frame"}))
                    memory.append(server.pss_bytes())
                    if version > 2:
                        shutil.rmtree(models / _NAME / str(version - 2))
            return SwapsRun(
                swaps, traffic.calls[baseline:], traffic.calls[:baseline], seconds, memory
            )


def main() -> None:
    """Measures and prints two tables; exit code 1 where a call failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=default_models() / "facemask/2/model.onnx")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--memory-swaps", type=int, default=30)
    parser.add_argument("--callers", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="that serve")
    parser.add_argument("--device-process", action="store_true", help="one more owns the device")
    arguments = parser.parse_args()
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    run = swap_under_load(
        arguments.model,
        image,
        swaps=arguments.swaps,
        callers=arguments.callers,
        options=(
            *("--processes", f"{arguments.processes}"),
            *(["--device-process"] if arguments.device_process else []),
        ),
    )
    failed = Counter(one.kind for one in run.failed)
    table = Table("calls", "without swaps", "failed", "p50 ms", "p99 ms", "while swapping")
    for name in ("failed", "p50 ms", "p99 ms"):
        table.add_column(name)
    for kind in ("classify", "frame", "explain"):
        cells = [kind]
        for calls in (run.baseline, run.calls):
            mine = [one for one in calls if one.kind == kind]
            cells += [
                f"{len(mine)}",
                f"{sum(1 for one in mine if one.error)}",
                f"{percentile_ms(mine, kind, 0.5):.1f}",
                f"{percentile_ms(mine, kind, 0.99):.1f}",
            ]
        table.add_row(*cells)
    console = Console(width=120)
    console.print(f"{run.swaps} swaps; {sum(failed.values())} calls failed")
    console.print(table)
    console.print(
        "published until classified, explained and streamed by it: median "
        f"{np.median(run.seconds):.2f} s, longest {max(run.seconds):.2f} s"
    )
    pss = np.array(run.pss_bytes) / 2**20
    spans = [(0, 1), (_SETTLED, 2 * _SETTLED)]
    spans += [(end - _SETTLED, end) for end in (_SETTLED + arguments.memory_swaps, len(pss))]
    console.print("PSS MiB, while called, median over swaps:")
    for start, end in sorted({one for one in spans if one[0] >= 0 and one[1] <= len(pss)}):
        console.print(f"  {start} to {end - 1}: {np.median(pss[start:end]):.0f}")
    for one in run.failed[:5]:
        console.print(f"{one.kind}: {one.error}")
    sys.exit(1 if run.failed else 0)


if __name__ == "__main__":
    main()
