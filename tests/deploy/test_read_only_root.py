"""The server as it runs in a container: unprivileged, nothing but /tmp can be written.

No image is built and no container runtime is asked: namespaces of the kernel do what one would.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import limelens.serve
from limelens.serve.client import Client, Tls

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
TOOLS = ("unshare", "mount", "chroot", "setpriv", "env")
RED = np.full((64, 64, 3), (250, 0, 0), np.uint8)
Start = Callable[..., subprocess.Popen[str]]


def outermost(folders: list[Path]) -> list[Path]:
    """The folders without those that lie in another of them."""
    return [one for one in folders if not any(other in one.parents for other in folders)]


@pytest.fixture
def models_there(tmp_path: Path, one_model: Path) -> Path:
    """The models, where another user can read them."""
    folder = tmp_path / "shown" / "models"
    shutil.copytree(one_model, folder)
    folder.chmod(0o755)  # as the temporary folder that they come from is not
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Python with these arguments in the read-only root, where tmp_path/shown is seen."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"without {', '.join(missing)} there is no root of its own to be made")
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip(f"this machine allows no mounts: {tried.stderr.strip()}")
    root = tmp_path / "root"
    root.mkdir()
    shown = tmp_path / "shown"
    shown.mkdir(exist_ok=True)
    roots = {Path(folder).parent.parent for folder in limelens.serve.__path__} | {
        CHECKOUT / name for name in ("train", "serve", "explain", "proto", "models")
    }
    folders = {Path(sys.prefix), Path(sys.base_prefix), shown, *roots}
    visible = outermost(sorted({one.resolve() for one in folders} - {Path("/usr")}))
    path = os.pathsep.join(str(CHECKOUT / name) for name in ("train", "serve", "explain", "proto"))
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        command: list[str | Path] = ["unshare", "--mount", "sh", HERE / "read_only_root.sh", root]
        command += [*visible, "--", f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1"]
        command += ["OMP_NUM_THREADS=1", sys.executable, *map(str, arguments)]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield run
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


def test_only_the_temporary_folder_is_writable(start: Start) -> None:
    code = (
        "import json, os, pathlib\n"
        "found = {}\n"
        "for folder in ('/', '/etc', '/usr', '/dev', '/tmp', os.getcwd()):\n"
        "    try:\n"
        "        (pathlib.Path(folder) / 'written').write_text('x')\n"
        "        found[folder] = 'written'\n"
        "    except OSError as error:\n"
        "        found[folder] = error.strerror\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(json.dumps([found, os.environ.get('HOME'), {key: status[key].split()[0] "
        "for key in ('Uid', 'Gid', 'NoNewPrivs', 'CapEff', 'CapBnd')}]))\n"
    )
    output, errors = start("-c", code).communicate(timeout=60)
    assert output, errors
    written, home, status = json.loads(output)
    assert written.pop("/tmp") == "written"
    assert set(written.values()) <= {"Read-only file system", "Permission denied"}
    assert home is None
    assert (status["Uid"], status["Gid"], status["NoNewPrivs"]) == ("65532", "65532", "1")
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0


@pytest.mark.ci
def test_a_server_classifies_explains_and_drains(
    start: Start, models_there: Path, authority: Callable[..., Any], tokens: Any
) -> None:
    ca = authority("shown")
    chain, key = ca.issue("localhost")
    key.chmod(0o644)  # its reader is another user
    tokens.path = ca.folder / "tokens.toml"
    token = tokens.set("door", ["classify", "explain", "models"])
    tokens.path.chmod(0o644)
    process = start(
        *("-m", "limelens.cli", "serve", "--production", "--models", models_there),
        *("--listen", "127.0.0.1:0", "--device", "cpu", "--grace-s", "60"),
        *("--tls-cert", chain, "--tls-key", key, "--tokens", tokens.path),
    )
    assert process.stdout is not None
    ready = process.stdout.readline()
    assert ready, process.communicate()[1]
    address = ready.split(" on ")[1].split()[0]
    with Client(address, tls=Tls(ca.path), token=token) as client:
        assert client.classify(RED)[0].label == "red"
        why = client.explain(RED, num_samples=50, renderings=["overlay"])
        assert why.explanations[0].overlay_png.startswith(b"\x89PNG")

        updates = client.explain_stream(RED, num_samples=5000)
        next(updates)  # it has begun
        late: list[Any] = []
        reading = threading.Thread(target=lambda: late.extend(updates))
        reading.start()
        process.send_signal(signal.SIGTERM)
        reading.join(60)
        assert late[-1].explanation.num_samples == 5000
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_the_doctor_of_the_machine_works(start: Start, models_there: Path) -> None:
    output, errors = start(
        "-m", "limelens.cli", "doctor", "--models", models_there, "--json"
    ).communicate(timeout=120)
    assert output, errors
    checks = {check["name"]: check for check in json.loads(output)["checks"]}
    assert checks["model colours 1"]["state"] == "ok"
    assert not [name for name, check in checks.items() if check["state"] == "wrong"]
