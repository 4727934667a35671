"""A sender in a process of its own, to be killed: python sending.py SETTINGS FIRST NUMBER.

It posts the events FIRST, FIRST + 1, …, then says how it stands whenever that changes, until its
input ends.
"""

from __future__ import annotations

import sys
import threading
import time

from tests.watch.sinks.made import event

from limelens.watch.sinks.webhook import WebhookSink
from limelens.watch.sinks.webhook_settings import WebhookSettings


def main() -> None:
    settings, first, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sink = WebhookSink(WebhookSettings.model_validate_json(settings))
    for sequence in range(first, first + number):
        sink.put(event(sequence))
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    said = None
    while not ended.wait(0.01):
        if sink.problem != said:
            said = sink.problem
            print(said, flush=True)
    began = time.monotonic()
    sink.close(10)
    print(f"closed within {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
