"""Measures the cost of metrics and traces: a server's CPU per image, relative to none.

The same callers ask four servers in turn to classify the same image: one without metrics and
traces, a second one like it (to see the effect of chance), one with metrics that are read every few
rounds, and one that sends a trace of every call to a receiver here. The CPU of counting alone, and
of one read alone, is measured separately, because the ratios vary by a few percent on a shared
machine.

    python -m benchmarks.observing [--rounds 40] [--images 200] [--callers 8]
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage.data import astronaut

from limelens.cli.serving import default_models
from limelens.serve import Client
from limelens.serve.call_context import Call
from limelens.serve.decisions.decision import decide
from limelens.serve.observing.metrics import Metrics
from limelens.serve.observing.observer import Observer, RequestClassified
from limelens.serve.repository.model_repository import Repository
from limelens.serve.scheduling.inference import (
    Completion,
    InferenceResult,
    InferenceStatus,
    Priority,
)

_ROUNDS_A_SCRAPE = 5
_SCRAPES = 100
_CPU_CLOCK = 2  # of the kernel's clocks of a process, the one that the scheduler keeps


@dataclass(frozen=True)
class _Server:
    """A server in a process of its own."""

    pid: int
    address: str
    http: str

    def cpu_s(self) -> float:
        return time.clock_gettime((~self.pid << 3) | _CPU_CLOCK)

    def scrape(self) -> int:
        if not self.http:
            return 0
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=30) as answer:
            return len(answer.read())


class _Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OpenTelemetry collector that discards everything."""

    def Export(self, _request: Any, _context: Any) -> Any:  # the contract's name
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def _receiving() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]
        _Receiver(), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@contextmanager
def _serving(*options: str) -> Iterator[_Server]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "limelens.cli", "serve", "--device", "cpu"),
            *("--listen", "127.0.0.1:0", "--log-level", "info", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().split(" on ")[1].split()[0]
        http = ""
        if "--http" in options:
            while "metrics and probes on http://" not in (line := process.stderr.readline()):
                pass
            http = line.strip().partition("http://")[2]
        yield _Server(process.pid, address, http)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--images", type=int, default=200, help="in a round")
    parser.add_argument("--callers", type=int, default=8)
    arguments = parser.parse_args()
    file = io.BytesIO()
    portrait = Image.fromarray(astronaut())  # type: ignore[no-untyped-call]
    portrait.resize((224, 224)).save(file, "JPEG", quality=90)
    image = file.getvalue()
    spent: dict[str, list[float]] = {
        name: [] for name in ("unwatched", "unwatched too", "metrics", "traces")
    }
    with (
        _receiving() as receiver,
        _serving() as unwatched,
        _serving() as unwatched_too,
        _serving("--http", "127.0.0.1:0") as measured,
        _serving("--trace-to", receiver) as traced,
        Client(unwatched.address) as ask_unwatched,
        Client(unwatched_too.address) as ask_unwatched_too,
        Client(measured.address) as ask_measured,
        Client(traced.address) as ask_traced,
        ThreadPoolExecutor(arguments.callers) as callers,
    ):
        turns = [
            ("unwatched", unwatched, ask_unwatched),
            ("unwatched too", unwatched_too, ask_unwatched_too),
            ("metrics", measured, ask_measured),
            ("traces", traced, ask_traced),
        ]
        for number in range(arguments.rounds + 1):
            first = number % len(turns)
            for name, server, client in turns[first:] + turns[:first]:
                began = server.cpu_s()
                list(callers.map(client.classify, [[image]] * arguments.images))
                if number % _ROUNDS_A_SCRAPE == 0:
                    server.scrape()
                if number:  # the first round warms up
                    spent[name].append((server.cpu_s() - began) / arguments.images)
        size = measured.scrape()
        began = measured.cpu_s()
        for _ in range(_SCRAPES):
            measured.scrape()
        scrape_s = (measured.cpu_s() - began) / _SCRAPES
    counting_s = _counting_s()
    console = Console()
    table = Table(title=f"{arguments.rounds} rounds of {arguments.images} images of 224 px")
    for column in ("server", "CPU-ms an image", "over unwatched", "median of rounds"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for name, each in spent.items():
        ratios = [a / b for a, b in zip(each, spent["unwatched"], strict=True)]
        table.add_row(
            name,
            f"{1000 * statistics.mean(each):.3f}",
            f"{sum(each) / sum(spent['unwatched']):.3f}",
            f"{statistics.median(ratios):.3f}",
        )
    console.print(table)
    share = counting_s / statistics.mean(spent["unwatched"])
    console.print(f"counting alone: {1e6 * counting_s:.1f} µs an image, {share:.4f} of unwatched")
    console.print(f"one reading of /metrics: {1000 * scrape_s:.1f} ms, {size:,} bytes")


def _counting_s(times: int = 20_000) -> float:
    """CPU of counting one call with one image: with metrics, less without."""
    repository = Repository(default_models(), "cpu", num_threads=1)
    metrics = Metrics(repository)
    served = repository.served[0]
    probabilities = np.full(len(served.bundle.labels), 0.01, np.float32)
    probabilities[0] = 0.99
    result = InferenceResult(probabilities, None, 0.0, 0.001, 0.001)
    ended = Completion(
        served.bundle, Priority.REQUEST, InferenceStatus.ANSWERED, 0.0001, 0.001, 0.001, 1
    )
    answered = RequestClassified(
        served, [result], [decide(probabilities, served.bundle.metadata)], 0.0
    )
    call = Call("limelens.v1.ClassifierService", "Classify", "a", 0.0, seconds=0.004)

    def reporting_s(observer: Observer) -> float:
        began = time.process_time()
        for _ in range(times):
            observer.call_began(call, ())
            observer.image_completed(ended)
            observer.request_classified(answered)
            observer.call_ended(call, "OK")
        return (time.process_time() - began) / times

    return min(reporting_s(metrics) for _ in range(5)) - min(
        reporting_s(Observer()) for _ in range(5)
    )


if __name__ == "__main__":
    main()
