from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import serving
from tests.waiting import PATIENCE_S, until

Run = Callable[..., Any]


def jpeg(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((300, 200), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Gives /NUMBER.jpg, from `num_quick` on only when `released`; 404 for the rest."""

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: Counter[str] = Counter()
        self.num_quick = 10**9
        self.released = threading.Event()

    def handle_error(self, *_: object) -> None:
        """A client that is killed hangs up."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        name = self.path[1:].removesuffix(".jpg")
        if not name.isdecimal():
            self.send_error(404)
            return
        if int(name) >= self.server.num_quick:
            self.server.released.wait(2 * PATIENCE_S)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(jpeg(int(name)))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    with serving(server):
        yield server
        server.released.set()


@pytest.fixture
def table(server: Server, tmp_path: Path) -> Path:
    """20 images under two labels, and a dead link."""
    lines = [
        f"{('dark', 'light')[n % 2]}\t{n:02d}\thttp://127.0.0.1:{server.server_port}/{n}.jpg"
        for n in range(20)
    ]
    lines.insert(7, f"dark\t[dead]\thttp://127.0.0.1:{server.server_port}/gone")
    path = tmp_path / "items.tsv"
    path.write_text("\n".join(["label\tid\turl", *lines]), "utf-8")
    return path


def test_a_table_becomes_data_that_train_takes(limelens: Run, table: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    result = limelens("ingest", table, "--out", data, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json == {
        "data": str(data),
        "labels": ["dark", "light"],
        "num_images": 20,
        "splits": {"train": 16, "val": 2, "test": 2},
        "left_out": 1,
        "table": str(data / "left_out.csv"),
        "warnings": [],
    }
    assert "21 URLs" in result.stderr
    assert "/gone: HTTP status 404" in result.stderr
    lines = (data / "left_out.csv").read_text("utf-8").splitlines()
    assert lines[0] == "line,label,id,url,reason"
    assert lines[1].startswith("9,dark,[dead],http://")
    trained = limelens(
        "train", data, "--out", tmp_path / "run", "--arch", "cnn3", "--input-size", 32,
        "--epochs", 1, "--batch-size", 8, "--augment", "none",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.stderr


def test_without_json_it_prints_the_result_and_the_next_step(
    limelens: Run, table: Path, tmp_path: Path
) -> None:
    result = limelens("ingest", table, "--out", tmp_path / "data", "--size", 64)
    assert result.exit_code == 0
    assert "20 images of 2 labels (16 train, 2 val, 2 test)" in result.stdout
    assert f"1 left out: {tmp_path / 'data' / 'left_out.csv'}" in result.stdout
    assert f"Next: limelens train {tmp_path / 'data'}" in result.stdout
    again = limelens("ingest", table, "--out", tmp_path / "data", "--size", 64)
    assert "21 URLs, 21 of them already fetched or refused" in again.stderr


def test_nothing_ingested_is_exit_code_1(limelens: Run, tmp_path: Path) -> None:
    table = tmp_path / "items.csv"
    table.write_text("label,id,url\na,x,http://127.0.0.1:9/x.jpg\n")
    result = limelens(
        "ingest", table, "--out", tmp_path / "data", "--retries", 1, "--backoff", 0, "--json"
    )
    assert result.exit_code == 1
    assert (result.json["num_images"], result.json["left_out"]) == (0, 1)
    assert "no connection" in (tmp_path / "data" / "left_out.csv").read_text()


@pytest.mark.parametrize(
    ("text", "options", "code", "message"),
    [
        ("label,url\na,b\n", (), 1, "items.csv line 1: the column id is missing"),
        ("label,id,url\n../a,x,u\n", (), 1, "items.csv line 2: label '../a'"),
        ("label,id,url\n", (), 1, "items.csv has a header and no row"),
        ("label,id,url\na,x,u\n", ("--size", 0), 2, "--size"),
        ("label,id,url\na,x,u\n", ("--timeout", 0), 2, "--timeout"),
    ],
)
def test_wrong_tables_and_options_are_reported(
    limelens: Run, tmp_path: Path, text: str, options: tuple[Any, ...], code: int, message: str
) -> None:
    table = tmp_path / "items.csv"
    table.write_text(text)
    result = limelens("ingest", table, "--out", tmp_path / "data", *options)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_resumes(
    limelens: Run, server: Server, table: Path, tmp_path: Path, how: signal.Signals
) -> None:
    server.num_quick = 8
    data = tmp_path / "data"
    journal = data / ".ingest" / "journal.jsonl"
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "limelens.cli",
            "ingest",
            table,
            "--out",
            data,
            "--concurrency",
            "4",
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as killed:
        # The dead link is remembered too. Four more requests have arrived, so that none comes late.
        until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 9)
        until(lambda: server.requests.total() == 9 + 4)
        killed.send_signal(how)
        _, stderr = killed.communicate(timeout=60)
    assert killed.returncode == (-9 if how == signal.SIGKILL else 1)
    if how == signal.SIGINT:
        assert "run the same command again to continue" in stderr
        assert "Traceback" not in stderr
    assert not (data / "train").exists()

    done = {json.loads(line)["url"] for line in journal.read_text().splitlines()}
    server.requests.clear()
    server.released.set()
    result = limelens("ingest", table, "--out", data, "--json")
    assert result.json["num_images"] == 20
    assert server.requests.total() == 12
    assert set(server.requests.values()) == {1}
    assert not done & {f"http://127.0.0.1:{server.server_port}{path}" for path in server.requests}
