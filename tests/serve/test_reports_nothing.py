"""No process leaves unexpected files or opens unexpected connections."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(str(ROOT / name) for name in ("train", "serve", "explain", "proto"))


def environment(home: Path) -> dict[str, str]:
    """As for a user who has set nothing about telemetry."""
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG")}
    caches = {"HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    return {**kept, **caches, "PYTHONPATH": PATHS, "PYTHONDONTWRITEBYTECODE": "1"}


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "module",
    ["limelens.serve", "limelens.cli.app", "limelens.train", "limelens.serve.bundle.loading"],
)
def test_reporting_is_off_before_anything_can_load_onnxruntime(module: str, tmp_path: Path) -> None:
    code = (
        f"import os, sys, {module}; "
        "print(os.environ['ORT_DISABLE_TELEMETRY'], 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(tmp_path), "ORT_DISABLE_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1 False\n"


def test_classifying_leaves_no_file_in_the_users_folders(one_model: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (bundle,) = one_model.rglob("model.onnx")
    code = (
        "import sys, numpy as np; from limelens.serve import load_bundle; "
        "bundle = load_bundle(sys.argv[1]); height, width = bundle.input_size; "
        "bundle.predict(np.zeros((1, height, width, 3), np.uint8))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(bundle)], env=environment(tmp_path / "home"), check=True
    )
    assert files(tmp_path / "home") == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_leaves_no_file_and_has_no_connection_but_its_port(
    one_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "limelens.cli", "serve"),
            *("--models", str(one_model), "--listen", "127.0.0.1:0"),
        ],
        env=environment(tmp_path / "home"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        ready = server.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", ready)
        assert found, ready
        with socket.create_connection(("127.0.0.1", int(found[1]))):
            remote = _other_ends(server.pid)
        # What is connected to its own port came by itself.
        assert remote <= {int(found[1])}
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        if server.stdout is not None:
            server.stdout.close()
    assert files(tmp_path / "home") == []


def _other_ends(pid: int) -> set[int]:
    """The own ports of a process's TCP sockets; everything it listens on or is connected by."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            inodes |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
    ports = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[9] in inodes:
                ports.add(int(columns[1].rpartition(":")[2], 16))
    return ports
