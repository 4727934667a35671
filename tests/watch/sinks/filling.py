"""A sender whose disk is full, in a process of its own: python filling.py FOLDER.

The limit for the size of files stands for the disk. Prints whether a receiver that was down took
every event once and in order.
"""

from __future__ import annotations

import functools
import resource
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from pydantic import SecretStr
from tests.waiting import until
from tests.watch.sinks.made import SECRET, event
from tests.watch.sinks.receivers import Scripted, says

from limelens.watch.sinks.webhook import WebhookSink
from limelens.watch.sinks.webhook_settings import WebhookSettings


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "secret.txt").write_text(SECRET)
    is_up = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        takes = is_up.is_set()  # asked once: it may change while the answer is sent
        says(204 if takes else 503)(request)
        if takes:
            taken.append(receiver.sequences[-1])

    taken: list[int] = []
    receiver = Scripted(answer)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, most))
    sink = WebhookSink(
        WebhookSettings(
            url=SecretStr(f"http://127.0.0.1:{receiver.port}/"),
            secret_file=folder / "secret.txt",
            spool=folder / "spool",
            max_wait_s=0.05,
        )
    )

    def waits(number: int) -> bool:
        return f"{number} events waiting" in sink.problem

    # In parts, since what is put at once is written at once, or not at all.
    for first in range(0, 100, 10):
        for sequence in range(first, first + 10):
            sink.put(event(sequence))
        until(functools.partial(waits, first + 10))
    assert "events in memory" in sink.problem, sink.problem
    is_up.set()
    until(lambda: len(taken) == 100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sink.put(event(100))
    until(lambda: len(taken) == 101)
    until(lambda: not sink.problem)
    sink.close(5)
    receiver.stop()
    print(taken == list(range(101)))


if __name__ == "__main__":
    main()
