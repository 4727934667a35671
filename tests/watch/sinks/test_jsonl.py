"""Lines of JSON in real files: rotated, cut, and on a disk that is full."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.waiting import until
from tests.watch.sinks.made import event

from limelens.watch.event import EventType, document
from limelens.watch.sinks.jsonl import JsonlSettings, JsonlSink

ROOT = Path(__file__).parents[3]


@pytest.fixture
def start_sink() -> Iterator[Callable[[Path], JsonlSink]]:
    started: list[JsonlSink] = []

    def start(path: Path) -> JsonlSink:
        started.append(JsonlSink(JsonlSettings(path=path)))
        return started[-1]

    yield start
    for sink in started:
        sink.close(0)


def sequences(path: Path) -> list[int]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["sequence"] for line in lines]


def test_events_are_lines_and_what_waits_is_written_at_the_end(
    start_sink: Callable[[Path], JsonlSink], tmp_path: Path
) -> None:
    sink = start_sink(tmp_path / "events.jsonl")
    sent = event(1, camera_id="Tür\n\udcff")
    sink.put(sent)
    sink.put(event(2, type=EventType.FRAME))  # not asked for
    sink.put(event(3))
    sink.close(5)
    first, _ = (tmp_path / "events.jsonl").read_text("utf-8").splitlines()
    assert json.loads(first) == {**document(sent), "camera_id": "Tür\n?"}
    assert sequences(tmp_path / "events.jsonl") == [1, 3]


def test_a_rotated_file_is_left_and_a_cut_one_continued(
    start_sink: Callable[[Path], JsonlSink], tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"sequence": 0}\n{"sequ')  # the power went while it was written
    sink = start_sink(path)
    sink.put(event(1))
    until(lambda: path.read_text().endswith("}\n"))
    torn, last = path.read_text().splitlines()[1:]
    assert (torn, json.loads(last)["sequence"]) == ('{"sequ', 1)
    path.rename(tmp_path / "events.jsonl.1")
    sink.put(event(2))
    until(lambda: sequences(path) == [2])
    with path.open("w"):  # as logrotate's copytruncate
        pass
    sink.put(event(3))
    until(lambda: sequences(path) == [3])


def test_a_full_disk_tears_no_line_and_loses_none(tmp_path: Path) -> None:
    """The limit of a process for a file's size is the disk, and is raised after a while."""
    path = tmp_path / "events.jsonl"
    script = """
import resource, sys
from pathlib import Path
from tests.waiting import until
from tests.watch.sinks.made import event
from limelens.watch.sinks.jsonl import JsonlSettings, JsonlSink

most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
sink = JsonlSink(JsonlSettings(path=Path(sys.argv[1])))
for sequence in range(10):
    sink.put(event(sequence))
until(lambda: "File too large; 8 events not written yet" in sink.problem)
print(Path(sys.argv[1]).read_text().count("}\\n"), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
until(lambda: not sink.problem)
sink.close(5)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, path], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "2\n")
    assert sequences(path) == list(range(10))


def test_a_folder_that_is_not_there_is_a_problem_and_not_an_end(
    start_sink: Callable[[Path], JsonlSink], tmp_path: Path
) -> None:
    path = tmp_path / "later" / "events.jsonl"
    sink = start_sink(path)
    sink.put(event(1))
    until(lambda: sink.problem)
    assert sink.problem == (
        f"{path}: No such file or directory; 1 event not written yet, trying again"
    )
    path.parent.mkdir()
    until(lambda: sequences(path) == [1])
    until(lambda: not sink.problem)
