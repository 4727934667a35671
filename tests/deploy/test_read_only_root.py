"""The server as it runs in a container: unprivileged, nothing but /tmp can be written.

No image is built and no container runtime is asked: namespaces of the kernel do what one would.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limelens.serve.client import Client, Tls

RED = np.full((64, 64, 3), (250, 0, 0), np.uint8)
Start = Callable[..., subprocess.Popen[str]]


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
