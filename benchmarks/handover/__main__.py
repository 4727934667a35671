"""Compares sessions in every process with sessions in one, which gets the others' images.

    python -m benchmarks.handover [--processes 4,8] [--callers 8,32,128] [--seconds 1.5]
        [--threads 2] [--device auto] [--json FILE] [--limit 280]

Both layouts work like the server, without gRPC: callers in a closed loop send JPEGs of 224 px to
front processes, whose threads decode them to the shipped model's size.

    independent  each front has its own sessions
    engine       another process has the sessions; images reach it through shared memory

Each caller waits for its result before it sends again, and starts half a second before a
measurement. All results are compared with those of a plain session on the CPU. It needs Linux and
x86-64, numpy, onnx, onnxruntime, Pillow and simplejpeg, but no installed limelens and no data.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.device.card import gpu_memory_mb, gpu_name
from benchmarks.device.isolated import cores, isolated
from benchmarks.handover.batching import run_engine
from benchmarks.handover.callers import (
    FrontMetrics,
    Job,
    Order,
    expected_of,
    run_front,
    run_independent,
)
from benchmarks.handover.processes import Processes
from benchmarks.handover.slots import Plan, Wake
from limelens.serve.bundle import read_metadata
from limelens.serve.errors import LimelensError

MODEL: Final = Path(__file__).parents[2] / "models" / "facemask" / "2" / "model.onnx"
LAYOUTS: Final = ("independent", "engine")
TOLERANCE: Final = 1e-3
_MAX_QUEUE: Final = 256
_WARMUP_S: Final = 0.5


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        layout: One of `LAYOUTS`.
        processes: Fronts.
        callers: Of all fronts together.
        per_s: Images a second.
        p50_ms: Median latency; NaN without results.
        p99_ms: Likewise.
        cores: CPU of the fronts, including their sessions if they have them.
        engine_cores: CPU of the engine process.
        mean_batch: Images in a run of the model.
        gpu_mb: Memory of the GPU that all processes took until they were ready, in MiB.
        start_s: Until all were ready.
        difference: Largest one of a probability from the CPU's.
    """

    layout: str
    processes: int
    callers: int
    per_s: float
    p50_ms: float
    p99_ms: float
    cores: float
    engine_cores: float
    mean_batch: float
    gpu_mb: float | None
    start_s: float
    difference: float


def main() -> None:
    """Measures and prints; exit code 1 if a layout failed or a result was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=_numbers, default=[4, 8], metavar="N,…")
    parser.add_argument("--callers", type=_numbers, default=[8, 32, 128], metavar="N,…")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--threads", type=int, default=2, help="of a front, that decode")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics to FILE")
    parser.add_argument(
        "--limit", type=float, default=280.0, metavar="S", help="limit on any wait, in seconds"
    )
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.limit
    device = _device() if arguments.device == "auto" else arguments.device
    job = _job(device, arguments.threads, max(arguments.callers))
    machine = {"gpu": gpu_name(), "cores": len(cores()), "device": device}
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for processes in arguments.processes:
        for layout in LAYOUTS:
            try:
                for row in _measured(
                    job, layout, processes, arguments.callers, arguments.seconds, deadline
                ):
                    rows.append(row)
                    print(_line(row, rows), flush=True)
            except (LimelensError, OSError) as error:
                failures[f"{layout}, {processes} processes"] = str(error)
                print(f"not measured: {layout}, {processes} processes: {error}", flush=True)
            if arguments.json is not None:
                kept = {"machine": machine, "rows": [*map(asdict, rows)], "failures": failures}
                arguments.json.write_text(json.dumps(kept, indent=1))
    wrong = [row for row in rows if not row.difference <= TOLERANCE]
    for row in wrong:
        print(f"wrong by {row.difference:.2g}, more than {TOLERANCE:g}: {_name(row)}")
    sys.exit(1 if failures or wrong else 0)


def _measured(
    job: Job,
    layout: str,
    processes: int,
    callers: Sequence[int],
    seconds: float,
    deadline: float,
) -> Iterator[Row]:
    """Starts one layout and yields a row for each number of callers."""
    before_mb = gpu_memory_mb()
    began = time.monotonic()
    with ExitStack() as stack:
        team = stack.enter_context(Processes(deadline))
        engine: list[Connection] = []
        if layout == "independent":
            fronts = [team.start(run_independent, job) for _ in range(processes)]
        else:
            fronts, engine = _started(stack, team, job, processes, max(callers))
        team.gather([*fronts, *engine])
        start_s = time.monotonic() - began
        ready_mb = gpu_memory_mb()
        gpu_mb = None if ready_mb is None or before_mb is None else ready_mb - before_mb
        for count in callers:
            begin = time.monotonic() + _WARMUP_S
            shares = [len(range(index, count, processes)) for index in range(processes)]
            for front, share in zip(fronts, shares, strict=True):
                front.send(Order(share, begin, begin + seconds))
            time.sleep(max(0.0, begin - time.monotonic()))
            cpu_s = [-team.cpu_s(fronts), -team.cpu_s(engine)]
            time.sleep(max(0.0, begin + seconds - time.monotonic()))
            cpu_s[0] += team.cpu_s(fronts)
            cpu_s[1] += team.cpu_s(engine)
            found: list[FrontMetrics] = team.gather(fronts)
            if not all(one.num_answers for one, share in zip(found, shares, strict=True) if share):
                raise LimelensError("a front gave no result; give it more --seconds")
            latencies_ms = 1e3 * np.concatenate([one.latencies_s for one in found])
            p50, p99 = np.percentile(latencies_ms, [50, 99]) if len(latencies_ms) else [np.nan] * 2
            yield Row(
                layout,
                processes,
                count,
                len(latencies_ms) / seconds,
                float(p50),
                float(p99),
                cpu_s[0] / seconds,
                cpu_s[1] / seconds,
                sum(one.num_answers for one in found) / sum(one.num_runs for one in found),
                gpu_mb,
                start_s,
                float(np.nanmax([one.difference for one in found])),
            )


def _started(
    stack: ExitStack, team: Processes, job: Job, processes: int, most_callers: int
) -> tuple[list[Connection], list[Connection]]:
    """The fronts and the engine process, with their memory, which lasts as long as the stack."""
    num_each = -(-most_callers // processes) + job.num_threads
    rule = read_metadata(job.model).resize
    plan = Plan(processes, num_each, (rule.height, rule.width), job.expected.shape[1])
    memory = SharedMemory(create=True, size=plan.size_bytes)
    stack.callback(memory.unlink)
    stack.callback(memory.close)
    plan = replace(plan, name=memory.name)
    wakes = [stack.enter_context(closing(Wake())) for _ in range(processes + 1)]
    wake, answered = wakes[0], wakes[1:]
    engine = team.start(run_engine, job, plan, wake, answered)
    fronts = [
        team.start(run_front, job, plan, index, wake, one) for index, one in enumerate(answered)
    ]
    return fronts, [engine]


def _job(device: str, num_threads: int, most_callers: int) -> Job:
    # In a separate process, so that this one stays small and never uses the device.
    expected = isolated(60.0, expected_of, MODEL)
    return Job(MODEL, device, expected, num_threads, max(_MAX_QUEUE, most_callers))


def _device() -> str:
    import onnxruntime

    has_provider = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return "cuda" if has_provider and gpu_name() else "cpu"


def _name(row: Row) -> str:
    return f"{row.layout}, {row.processes} processes, {row.callers} callers"


def _line(row: Row, rows: Sequence[Row]) -> str:
    """A measurement in words; the second layout's is also compared with the first one's."""
    memory = "" if row.gpu_mb is None else f", GPU {row.gpu_mb:,.0f} MiB"
    engine = f" + {row.engine_cores:.2f}" if row.engine_cores else ""
    ratio = "".join(
        f"  = {row.per_s / one.per_s:.2f} of independent"
        for one in rows
        if one.layout != row.layout
        and (one.processes, one.callers) == (row.processes, row.callers)
        and one.per_s
    )
    return (
        f"{row.layout:<11} {row.processes:>2} processes {row.callers:>3} callers: "
        f"{row.per_s:>8,.0f}/s  p50 {row.p50_ms:6.2f}  p99 {row.p99_ms:7.2f} ms  "
        f"{row.cores:.2f}{engine} cores  batch {row.mean_batch:.1f}{memory}  "
        f"start {row.start_s:.1f} s  off {row.difference:.0e}{ratio}"
    )


def _numbers(text: str) -> list[int]:
    try:
        found = [int(one) for one in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected numbers, such as 4,8") from None
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected numbers of 1 or more")
    return found


if __name__ == "__main__":
    main()
