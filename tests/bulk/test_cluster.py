"""`limelens bulk --address`: a Ray of two nodes on this machine, one of which is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from tests.bulk.collection import BAD, GOOD, write_images
from tests.bulk.sizes import SizeWork, plan_of, write_image
from tests.ports import free_port
from tests.waiting import until

pytest.importorskip("ray")
from limelens.bulk.ray_session import RayError, ray_session
from limelens.bulk.ray_units import Job, UnitsActor
from limelens.bulk.unit import PLAN

LONG_S = 600.0
HERE = "127.0.0.1"


class TestMachines:
    """What a worker finds wrong with the machine that it is on."""

    @pytest.fixture
    def job(self, tmp_path: Path) -> Job:
        write_image(tmp_path / "in" / "a.png")
        plan_of(tmp_path / "in", tmp_path / "staging")
        return Job(SizeWork(), tmp_path, tmp_path / "staging", 1, tmp_path / "in", "", 1)

    def failure(self, job: Job) -> str:
        row = UnitsActor(job)({"item": [0]})
        found: str = json.loads(row["document"][0])["failure"]
        return found

    def test_one_that_has_all_does_the_work(self, job: Job) -> None:
        assert self.failure(job) == ""

    def test_another_version_is_refused(self, job: Job) -> None:
        other = dataclasses.replace(job, version="0.0.1")
        assert self.failure(other).endswith("; expected 0.0.1 everywhere")

    def test_a_disk_that_is_not_mounted_is_no_input(self, job: Job) -> None:
        (job.root / "a.png").unlink()
        assert "is not there, or empty" in self.failure(job)
        job.root.rmdir()
        assert "is not there, or empty" in self.failure(job)

    def test_an_output_that_is_not_shared_is_no_output(self, job: Job) -> None:
        (job.staging / PLAN).unlink()
        assert "this machine does not share it" in self.failure(job)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ray://127.0.0.1:10001", "not HOST:PORT"),
        ("127.0.0.1", "not HOST:PORT"),
        ("127.0.0.1:1", "refused"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(
    tmp_path: Path, address: str, reason: str
) -> None:
    with (
        pytest.raises(RayError, match=f"no Ray at {address}: .*{reason}.*; expected HOST:PORT"),
        ray_session(address, 1, tmp_path / "ray"),
    ):
        pass


@contextmanager
def node(folder: Path, *arguments: object) -> Iterator[psutil.Process]:
    """A node of Ray with one core; its raylet."""
    command = [
        *("ray", "start", "--block", "--num-cpus", "1", "--node-ip-address", HERE),
        *("--include-log-monitor", "false", "--object-store-memory", str(100 * 1024**2)),
        # Whichever are free: Ray's own range may hold the ports that the test has chosen.
        *("--min-worker-port", "0", "--max-worker-port", "0"),
        *map(str, arguments),
    ]
    log = folder / f"{secrets.token_hex(4)}.log"
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as started:
        try:
            until(lambda: "--block" in log.read_text() or started.poll() is not None, LONG_S)
            assert started.poll() is None, log.read_text()
            children = psutil.Process(started.pid).children()
            (raylet,) = (one for one in children if one.name() == "raylet")
            yield raylet
        finally:
            started.terminate()


@pytest.fixture
def cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, list[psutil.Process]]]:
    """The address of a Ray of two nodes, and their raylets."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "180000")
    address = f"{HERE}:{free_port()}"
    with ExitStack() as nodes:
        # Short, because the names of its sockets may have 107 bytes.
        folder = nodes.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        head = node(
            tmp_path, "--head", "--port", address.rpartition(":")[2], "--temp-dir", folder,
            "--include-dashboard", "false", "--ray-client-server-port", free_port(),
        )  # fmt: skip
        raylets = [nodes.enter_context(head)]
        raylets.append(nodes.enter_context(node(tmp_path, "--address", address)))
        yield address, raylets


def workers_of(raylet: psutil.Process) -> list[psutil.Process]:
    found = []
    for one in raylet.children():
        with suppress(psutil.NoSuchProcess):
            if "".join(one.cmdline()).startswith("ray::MapWorker"):
                found.append(one)
    return found


@pytest.mark.slow
def test_every_image_has_one_row_though_workers_and_a_machine_are_lost(
    tmp_path: Path, one_model: Path, cluster: tuple[str, list[psutil.Process]]
) -> None:
    address, raylets = cluster
    images = tmp_path / "images"
    images.mkdir()
    write_images(images)
    out = tmp_path / "out"
    command = [
        *("-m", "limelens.cli", "bulk", "explain", images, "--out", out, "--address", address),
        *("--model", one_model / "colours" / "1", "--num-samples", 5000),
        *("--images-per-file", 2, "--workers", 2, "--json"),
    ]

    def until_more_parts(run: subprocess.Popen[str]) -> None:
        before = set(out.glob("*.parquet"))
        until(lambda: set(out.glob("*.parquet")) - before or run.poll() is not None, LONG_S)

    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        try:
            until(lambda: all(map(workers_of, raylets)) or run.poll() is not None, LONG_S)
            # A worker gets its model again from where the first one had it.
            for _ in range(2):
                until_more_parts(run)
                workers = list(chain.from_iterable(map(workers_of, raylets)))
                assert workers
                for worker in workers:
                    worker.kill()
            assert run.poll() is None
            raylets[1].kill()
            output, errors = run.communicate()
        finally:
            run.kill()
    assert run.returncode == 0, errors
    report = json.loads(output)
    assert report["rows"] == report["images"] == GOOD + BAD
    assert report["errors"] == BAD
    rows: list[Any] = pq.read_table(out).to_pylist()
    assert sorted(row["path"] for row in rows) == sorted(path.name for path in images.iterdir())
