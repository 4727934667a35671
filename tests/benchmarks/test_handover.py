"""Images handed over in shared memory; no test asserts a speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest
from benchmarks.handover.processes import Processes
from benchmarks.handover.slots import Plan, Slots

from limelens.serve.errors import LimelensError


def _fail(_pipe: Connection) -> None:
    raise ValueError("no such model")


def _end(_pipe: Connection) -> None:
    os._exit(3)


def _wait(pipe: Connection) -> None:
    pipe.recv()


@pytest.fixture
def plan() -> Iterator[Plan]:
    found = Plan(num_fronts=2, num_each=3, input_size=(4, 5), num_labels=7)
    memory = SharedMemory(create=True, size=found.size_bytes)
    yield replace(found, name=memory.name)
    memory.close()
    memory.unlink()


def test_slots_are_taken_once_and_oldest_first(plan: Plan) -> None:
    slots = Slots(plan)
    slots.ready_at[[4, 0, 5]] = [1.0, 2.0, 3.0]
    assert slots.take(0).tolist() == []
    assert slots.take(2).tolist() == [4, 0]
    assert slots.take(2).tolist() == [5]
    assert slots.take(2).tolist() == []


def test_no_two_arrays_of_the_slots_share_memory(plan: Plan) -> None:
    slots = Slots(plan)
    arrays = [slots.ready_at, slots.probabilities, slots.batch_sizes, slots.done, slots.pixels]
    for number, array in enumerate(arrays, start=1):
        array[...] = number
    for number, array in enumerate(arrays, start=1):
        expected = np.full(array.shape, number).astype(array.dtype)
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("work", "message"), [(_fail, "no such model"), (_end, "exit 3"), (_wait, "no time left")]
)
def test_a_process_that_fails_ends_or_takes_too_long_is_reported(
    work: Callable[[Connection], None], message: str
) -> None:
    limit_s = 3.0 if work is _wait else 60.0
    with Processes(time.monotonic() + limit_s) as team:
        quiet = team.start(_wait)
        team.start(work)
        with pytest.raises(LimelensError, match=message):
            team.gather([quiet])


@pytest.mark.slow
def test_both_layouts_give_the_results_of_a_plain_session(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    command = [sys.executable, "-m", "benchmarks.handover", "--device", "cpu", "--json", str(file)]
    options = ["--processes", "2", "--callers", "1,6", "--seconds", "0.3"]
    done = subprocess.run([*command, *options], timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["failures"] == {}
    shown = [(row["layout"], row["callers"]) for row in found["rows"]]
    assert shown == [("independent", 1), ("independent", 6), ("engine", 1), ("engine", 6)]
    assert all(row["difference"] <= 1e-3 for row in found["rows"])
    assert all(row["mean_batch"] >= 1 for row in found["rows"])
