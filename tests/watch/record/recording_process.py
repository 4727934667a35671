"""A process that records, for tests that kill it or fill its disk.

Arguments: the folder, how many events, and the most bytes of a file (0: any). It prints the id of
each event that is on the disk, and `problem: …` when that changes. A line on its standard input
lifts the limit of bytes.
"""

from __future__ import annotations

import resource
import signal
import sys
import threading
from pathlib import Path

from tests.watch.record.made import alert, explanation

from limelens.watch.record.settings import RecordSettings
from limelens.watch.record.writer import RecordWriter


def say(text: str) -> None:
    """Prints a line in one piece: two threads do."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    folder, count, most_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if most_bytes:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    writer = RecordWriter(
        RecordSettings(path=folder, frames="changes"),
        on_recorded=say,
        retry_s=0.05,
    )
    told = threading.Event()

    def wait_for_a_line() -> None:
        sys.stdin.readline()
        told.set()

    threading.Thread(target=wait_for_a_line, daemon=True).start()
    problem = ""
    for number in range(count):
        event = alert(sequence=number)
        writer.put(event)
        writer.explain(explanation(event.id))
        writer.flush(0.01 if problem else 1)
        now = writer.problem.partition(";")[0]
        if now != problem:
            problem = now
            say(f"problem: {problem}")
    told.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.flush(60)
    say(f"lost: {writer.num_lost}")
    say(f"problem: {writer.problem}")
    writer.close(60)


main()
