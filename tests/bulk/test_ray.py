"""`limelens bulk` on a real Ray of two workers, which is killed in parts and as a whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.bulk.collection import write_images
from tests.waiting import until

pytest.importorskip("ray")
LONG_S = 600.0
GOOD, BAD = 21, 6
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command; what is left of it is killed after the test, and files may not be left."""
    started: list[subprocess.Popen[str]] = []
    # Short, because the names of Ray's sockets may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix=""))

    def begin(*arguments: object) -> subprocess.Popen[str]:
        one = subprocess.Popen(
            [sys.executable, "-m", "limelens.cli", "bulk", *map(str, arguments)],
            env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(one)
        return one

    yield begin
    for one in started:
        with one:
            one.kill()
    left = list(folder.iterdir())
    shutil.rmtree(folder)
    assert left == []


def workers_of(driver: int) -> list[int]:
    """The processes of Ray that do units, of a driver."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            parents = [int(folder.name)]
            while parents[-1] > 1:
                status = Path(f"/proc/{parents[-1]}/stat").read_text()
                parents.append(int(status.rpartition(")")[2].split()[1]))
            if command.startswith(b"ray::") and b"MapWorker" in command and driver in parents:
                found.append(int(folder.name))
    return found


def parts(out: Path) -> int:
    return len(list(out.glob("*.parquet")))


@pytest.mark.ci
def test_every_image_has_one_row_though_the_run_and_a_worker_are_killed(
    tmp_path: Path, one_model: Path, start: Start
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    write_images(images)
    for number in range(30):
        Image.new("RGB", (64, 64), (8 * number, 255 - 8 * number, 0)).save(
            images / f"more-{number}.png"
        )
    command = (
        "explain", images, "--model", one_model / "colours" / "1", "--num-samples", 5000,
        "--out", tmp_path / "out", "--workers", 2, "--images-per-file", 4, "--json",
    )  # fmt: skip
    out = tmp_path / "out"
    first = start(*command)
    until(lambda: parts(out) >= 2 or first.poll() is not None, LONG_S)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL

    second = start(*command)
    # Workers that outlive their driver may still finish parts of the first.
    workers: list[int] = []

    def both_work() -> bool:
        workers[:] = workers_of(second.pid)
        return len(workers) == 2 and any(out.glob("part-0002-*"))

    until(lambda: both_work() or second.poll() is not None, LONG_S)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    report = json.loads(output)
    assert "ray" not in errors.lower()
    assert report["done_before"] >= 4
    assert report["rows"] == report["images"] == GOOD + BAD + 30
    assert report["errors"] == BAD
    rows: list[Any] = pq.read_table(out).to_pylist()
    assert sorted(row["path"] for row in rows) == sorted(path.name for path in images.iterdir())
    assert sum(row["error"] is None and bool(row["explanations"]) for row in rows) == GOOD + 30
    assert [path.name for path in (out / "_limelens").iterdir() if path.is_dir()] == []


BROKEN = """
import os, sys
from pathlib import Path

from limelens.bulk.ray_session import ray_session
from limelens.bulk.ray_units import BulkFailedError, Job, do_units

class Spec:
    def __reduce__(self):
        return os.listdir, (sys.argv[1] + "/missing",)

folder = Path(sys.argv[1])
job = Job(Spec(), folder, folder, 1, folder, "", 1)
with ray_session(None, 1, folder / "noted"):
    try:
        list(do_units(job, 1, 1, on_gpu=False))
    except BulkFailedError as error:
        print(error, file=sys.stderr)
"""


@pytest.mark.ci
def test_what_a_worker_cannot_be_made_of_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, str(tmp_path)], capture_output=True, text=True
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("a worker could not be started: FileNotFoundError: ")
    assert f"{tmp_path}/missing" in line
    assert line.endswith(" on all machines")


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_how_to_go_on(
    tmp_path: Path, one_model: Path, start: Start, wanted: signal.Signals
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    write_images(images)
    command = (
        "explain", images, "--model", one_model / "colours" / "1", "--num-samples", 5000,
        "--out", tmp_path / "out", "--workers", 1, "--images-per-file", 2,
    )  # fmt: skip
    one = start(*command)
    until(lambda: parts(tmp_path / "out") or one.poll() is not None, LONG_S)
    workers = workers_of(one.pid)
    for _ in range(3 if wanted == signal.SIGINT else 1):
        one.send_signal(wanted)
        time.sleep(0.1)
    output, errors = one.communicate()
    assert (one.returncode, output) == (1, "")
    assert errors.endswith("Stopped; what is written stays, and the same command goes on.\n")
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting", "removed"])
def test_a_run_leaves_nothing_however_it_ends(
    tmp_path: Path, one_model: Path, start: Start, moment: str
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    write_images(images)
    out = tmp_path / "out"
    one = start(
        "explain", images, "--model", one_model / "colours" / "1", "--num-samples", 5000,
        "--out", out, "--workers", 1, "--images-per-file", 2,
    )  # fmt: skip
    if moment == "starting":
        until(lambda: (out / "_limelens" / "ray").exists() or one.poll() is not None, LONG_S)
        one.terminate()
    else:
        until(lambda: parts(out) or one.poll() is not None, LONG_S)
        shutil.rmtree(out / "_limelens")
    _, errors = one.communicate()
    assert one.returncode == 1
    wanted = "Stopped; " if moment == "starting" else "is gone: it was removed"
    assert wanted in errors


@pytest.mark.slow
def test_collections_are_classified_and_embedded_alike(
    tmp_path: Path, one_model: Path, start: Start
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    write_images(images)
    model = one_model / "colours" / "1"
    decided = []
    for kind in ("classify", "embed"):
        out = tmp_path / kind
        done = start(kind, images, "--model", model, "--out", out, "--workers", 1)
        output, errors = done.communicate()
        assert done.returncode == 0, errors
        assert f"{GOOD + BAD} rows in {out}" in output
        assert f"{BAD} rows with an error" in output
        rows: list[Any] = pq.read_table(out).to_pylist()
        decided.append({row["path"]: row["decision"] for row in rows})
    assert decided[0] == decided[1]
