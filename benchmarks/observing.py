"""What it costs a server to be watched: CPU per picture with metrics, over that without.

Two servers, one with `--http`, are asked in turns for the same picture by the same callers; the
one with metrics is also read once in every round, as often as a Prometheus that is in a hurry.
The ratio is that of all rounds together; beside it stands the CPU of the counting alone, measured
by doing nothing else. On a shared machine the ratio wavers by a few percent, the counting does not.

    python -m benchmarks.observing [--rounds 20] [--images 400] [--callers 8]
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

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage.data import astronaut

from limelens.cli.serving import default_models
from limelens.serve import Client
from limelens.serve.decision import decide
from limelens.serve.observing.call import Call
from limelens.serve.observing.metrics import Metrics
from limelens.serve.observing.observer import Answered, Observer
from limelens.serve.repository import Repository
from limelens.serve.scheduler import Ended, Fate, Outcome, Priority

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
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=int, default=400, help="in a round")
    parser.add_argument("--callers", type=int, default=8)
    arguments = parser.parse_args()
    file = io.BytesIO()
    Image.fromarray(astronaut()).resize((224, 224)).save(file, "JPEG", quality=90)
    picture = file.getvalue()
    spent: dict[str, list[float]] = {"without": [], "with": []}
    with (
        _serving() as without,
        _serving("--http", "127.0.0.1:0") as watched,
        Client(without.address) as asking_without,
        Client(watched.address) as asking_watched,
        ThreadPoolExecutor(arguments.callers) as callers,
    ):
        turns = [("without", without, asking_without), ("with", watched, asking_watched)]
        for number in range(arguments.rounds + 1):
            for name, server, client in turns if number % 2 else reversed(turns):
                began = server.cpu_s()
                list(callers.map(client.classify, [[picture]] * arguments.images))
                server.scrape()
                if number:  # the first round warms up
                    spent[name].append((server.cpu_s() - began) / arguments.images)
        size = watched.scrape()
    ratios = [a / b for a, b in zip(spent["with"], spent["without"], strict=True)]
    without_s = statistics.mean(spent["without"])
    counting_s = _counting_s()
    table = Table(title=f"{arguments.rounds} rounds of {arguments.images} pictures of 224 px")
    table.add_column("server CPU")
    table.add_column("value", justify="right")
    table.add_row("without metrics, ms a picture", f"{1000 * without_s:.3f}")
    table.add_row("with metrics, ms a picture", f"{1000 * statistics.mean(spent['with']):.3f}")
    table.add_row("with / without, all rounds", f"{sum(spent['with']) / sum(spent['without']):.3f}")
    table.add_row("with / without, median of rounds", f"{statistics.median(ratios):.3f}")
    table.add_row("counting alone, µs a picture", f"{1e6 * counting_s:.1f}")
    table.add_row("counting alone / without", f"{counting_s / without_s:.4f}")
    table.add_row("one answer of /metrics, bytes", f"{size:,}")
    Console().print(table)


def _counting_s(times: int = 20_000) -> float:
    """CPU of all that is told of one call with one picture, beyond telling it to nobody."""
    repository = Repository(default_models(), "cpu", num_threads=1)
    metrics = Metrics(repository)
    served = repository.served[0]
    probabilities = np.full(len(served.bundle.labels), 0.01, np.float32)
    probabilities[0] = 0.99
    outcome = Outcome(probabilities, None, 0.0, 0.001, 0.001)
    ended = Ended(served.bundle, Priority.REQUEST, Fate.ANSWERED, 0.0001, 0.001, 0.001, 1)
    answered = Answered(served, [outcome], [decide(probabilities, served.bundle.metadata)], 0.0)
    call = Call("limelens.v1.ClassifierService", "Classify", "a", 0.0, seconds=0.004)

    def told(observer: Observer) -> float:
        began = time.process_time()
        for _ in range(times):
            observer.call_began(call, ())
            observer.picture_ended(ended)
            observer.answered(answered)
            observer.call_ended(call, "OK")
        return (time.process_time() - began) / times

    return min(told(metrics) for _ in range(5)) - min(told(Observer()) for _ in range(5))


if __name__ == "__main__":
    main()
