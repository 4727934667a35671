"""Measures the cost of serving beyond decoding and the model, and latency under load.

The parts of a row alternate in one run, and the table shows the median over rounds: on a shared
machine ratios can be trusted, milliseconds cannot. The floor is Pillow and onnxruntime in two
threads of a separate process; a second floor reads images as limelens does.

    python -m benchmarks.serving [--rounds 5] [--seconds 3] [--long] [--only cost explain …]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.untrained import network_model, repository_of
from limelens.cli.bench import serve_command
from limelens.cli.serving import packaged_models
from limelens.serve.tools.load import (
    Kind,
    LoadPlan,
    ServerProcess,
    Watch,
    draw_image,
    generate,
    measure_floor,
    started,
)

_CALLERS: Final = (1, 8, 32)
_AT_ONCE: Final = 400
_DEADLINE_S: Final = 0.25
_GROWING: Final = 5_000
_GROWING_LONG: Final = 100_000
_SETTLING: Final = 2_000


@dataclass(frozen=True)
class Row:
    """One metric with its required and wanted values; empty if there are none."""

    what: str
    required: str
    wanted: str
    measured: str


@dataclass(frozen=True)
class _Setting:
    models: Path
    images: tuple[bytes, ...]
    rounds: int
    seconds: float
    is_long: bool

    def plan(self, server: ServerProcess, **settings: object) -> LoadPlan:
        """Load on a server of this setting."""
        given = {"callers": 0, "duration_s": self.seconds, "warmup_s": 0.5, **settings}
        return LoadPlan(server.address, self.images, **given)  # type: ignore[arg-type]


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--models", type=Path, help="in place of MobileNetV3-small at 224 px")
    parser.add_argument("--long", action="store_true", help="memory over 100,000 requests")
    parser.add_argument("--only", nargs="+", choices=list(_PARTS), default=list(_PARTS))
    arguments = parser.parse_args()
    images = tuple(draw_image(224, 224, seed) for seed in range(8))
    setting = _Setting(
        arguments.models or repository_of(network_model("mobilenet_v3_small")),
        images,
        arguments.rounds,
        arguments.seconds,
        arguments.long,
    )
    table = Table("what", "required", "wanted", "measured")
    for name in arguments.only:
        print(f"measuring: {name} …", file=sys.stderr)
        for row in _PARTS[name](setting):
            table.add_row(row.what, row.required, row.wanted, row.measured)
    Console(width=120).print(table)


@contextmanager
def _server(models: Path) -> Iterator[ServerProcess]:
    with started(serve_command(models, "--device", "cpu")) as server:
        yield server


def start(setting: _Setting) -> list[Row]:
    """How soon a server with the shipped model is ready, and its memory then and later."""
    starts, sizes, later = [], [], []
    for _ in range(setting.rounds):
        with _server(packaged_models()) as server:
            watch = Watch(server.pid)
            starts.append(server.start_s)
            sizes.append(watch.pss_mb())
            generate(setting.plan(server, callers=8, duration_s=1.0))
            generate(setting.plan(server, explainers=1, duration_s=2.0))
            later.append(watch.pss_mb())
    return [
        Row("start to SERVING, s", "<= 1.0", "0.5", _spread(starts, 2)),
        Row("memory (PSS) once started, MB", "<= 250", "150", _spread(sizes, 0)),
        Row("the same after calls and explanations, MB", "<= 250", "150", _spread(later, 0)),
    ]


def cost(setting: _Setting) -> list[Row]:
    """CPU and throughput relative to the floor."""
    cpu: dict[int, list[float]] = {callers: [] for callers in _CALLERS}
    own_cpu: dict[int, list[float]] = {callers: [] for callers in _CALLERS}
    throughput: dict[int, list[float]] = {callers: [] for callers in _CALLERS}
    floors: list[float] = []
    own_floors: list[float] = []
    model = min(setting.models.glob("*/*/model.onnx"))
    with _server(setting.models) as server:
        for _ in range(setting.rounds):
            for callers in _CALLERS:
                before = measure_floor(model, setting.images, setting.seconds / 2)
                watch = Watch(server.pid)
                plan = setting.plan(server, callers=callers)
                metrics = generate(plan, watch.begin, watch.end)
                after = measure_floor(model, setting.images, setting.seconds / 2)
                own = measure_floor(model, setting.images, setting.seconds / 2, decoder="limelens")
                found = metrics.kinds[Kind.CLASSIFY]
                floor_ms = (before.cpu_ms + after.cpu_ms) / 2
                each_ms = 1000 * watch.usage.cpu_s / watch.usage.seconds / found.per_s
                floors.append(floor_ms)
                own_floors.append(own.cpu_ms)
                own_cpu[callers].append(each_ms / own.cpu_ms)
                cpu[callers].append(each_ms / floor_ms)
                throughput[callers].append(2 * found.per_s / (before.per_s + after.per_s))
    rows = [Row("the floor: CPU-ms an image", "", "", _spread(floors, 2))]
    for callers in _CALLERS:
        required, wanted = ("<= 1.25", "1.10") if callers > 1 else ("", "")
        what = f"CPU an image / the floor, {_of(callers)}"
        rows.append(Row(what, required, wanted, _spread(cpu[callers], 2)))
    rows.append(Row("with limelens' reader in place of Pillow", "", "", _spread(own_floors, 2)))
    for callers in _CALLERS:
        what = f"CPU an image / that floor, {_of(callers)}"
        rows.append(Row(what, "", "", _spread(own_cpu[callers], 2)))
    for callers in _CALLERS:
        what = f"throughput / the floor, {_of(callers)}"
        rows.append(Row(what, "", "", _spread(throughput[callers], 2)))
    return rows


def explain(setting: _Setting) -> list[Row]:
    """Latency of a few calls and cameras, alone and beside explanations without pause."""
    idle: list[float] = []
    busy: list[float] = []
    ratios: list[float] = []
    load = {"rate": 50.0, "streams": 4, "fps": 5.0, "duration_s": 2 * setting.seconds}
    with _server(setting.models) as server:
        generate(setting.plan(server, explainers=1, duration_s=2.0))  # what loads on first use
        for _ in range(setting.rounds):
            alone = generate(setting.plan(server, **load)).kinds[Kind.CLASSIFY]
            beside = generate(setting.plan(server, **load, explainers=1, num_samples=1000))
            idle.append(alone.latency_ms["p99"])
            busy.append(beside.kinds[Kind.CLASSIFY].latency_ms["p99"])
            ratios.append(busy[-1] / idle[-1])
    return [
        Row("Classify p99, 50 a second and 4 cameras, ms", "", "", _spread(idle, 1)),
        Row("the same beside explanations without pause, ms", "", "", _spread(busy, 1)),
        Row("the second / the first", "<= 2", "1.5", _spread(ratios, 2)),
    ]


def deadlines(setting: _Setting) -> list[Row]:
    """400 at once with 250 ms: how many began too late, by the scheduler's counters."""
    overdue, answered, run = 0, [], []
    command = [sys.executable, "-m", "benchmarks.served", str(setting.models)]
    for _ in range(setting.rounds):
        with started(command) as server:
            plan = setting.plan(
                server,
                callers=_AT_ONCE,
                calls_each=1,
                deadline_s=_DEADLINE_S,
                duration_s=20.0,
                warmup_s=0.0,
            )
            found = generate(plan).kinds[Kind.CLASSIFY]
            server.process.terminate()
            assert server.process.stdout is not None
            counts = json.loads(server.process.stdout.readline())
        overdue += counts["overdue"]
        answered.append(float(found.answered))
        run.append(float(counts["run"]))
    total = setting.rounds * _AT_ONCE
    return [
        Row(f"of {total} requests, begun after their deadline", "0", "0", str(overdue)),
        Row(f"of {_AT_ONCE} at once with 250 ms: run", "", "", _spread(run, 0)),
        Row("of these answered in time", "", "", _spread(answered, 0)),
    ]


def growth(setting: _Setting) -> list[Row]:
    """Memory after many requests, one in a hundred of them with a broken image."""
    count = _GROWING_LONG if setting.is_long else _GROWING
    with _server(setting.models) as server:
        watch = Watch(server.pid)

        def ask(number: int) -> None:
            callers = 8
            plan = setting.plan(
                server,
                callers=callers,
                calls_each=number // callers,
                broken=0.01,
                duration_s=3600.0,
                warmup_s=0.0,
            )
            generate(plan)

        ask(_SETTLING)
        before = watch.pss_mb()
        ask(count)
        after = watch.pss_mb()
    grown = 100 * (after / before - 1)
    what = f"memory after {count:,} requests, 1 % of them broken"
    return [Row(what, "< +5 %", "", f"{grown:+.1f} % ({before:.0f} to {after:.0f} MB)")]


_PARTS: Final[dict[str, Callable[[_Setting], list[Row]]]] = {
    "start": start,
    "cost": cost,
    "explain": explain,
    "deadlines": deadlines,
    "growth": growth,
}


def _of(callers: int) -> str:
    return f"{callers} caller{'s' * (callers > 1)}"


def _spread(values: list[float], digits: int) -> str:
    """Median, with the least and the most of all rounds."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


if __name__ == "__main__":
    main()
