from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limelens.serve import Client

COMMAND = (sys.executable, "-m", "limelens.cli", "serve")


def test_serve_announces_that_it_is_ready_and_exits_on_sigterm(one_model: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--models", str(one_model), "--listen", "127.0.0.1:0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    ready = process.stdout.readline()
    assert ready.startswith("limelens: serving colours 1 on 127.0.0.1:")
    assert "CPUExecutionProvider" in ready
    address = ready.split(" on ")[1].split()[0]
    with Client(address) as client:
        pixels = np.full((20, 20, 3), (250, 0, 0), dtype=np.uint8)
        assert client.classify([pixels])[0].label == "red"
    os.kill(process.pid, signal.SIGTERM)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert rest == ""


def test_a_socket_of_this_machine_can_be_listened_on(
    one_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    address = f"unix:{tmp_path_factory.mktemp('s') / 'l.sock'}"
    process = subprocess.Popen(
        [*COMMAND, "--models", str(one_model), "--listen", address, "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        assert ready.startswith(f"limelens: serving colours 1 on {address} ")
        with Client(address) as client:
            pixels = np.full((20, 20, 3), (250, 0, 0), dtype=np.uint8)
            assert client.classify([pixels])[0].label == "red"
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_a_demo_that_is_killed_stops_its_server(tmp_path: Path) -> None:
    image = tmp_path / "demo.png"
    process = subprocess.Popen(
        [sys.executable, "-m", "limelens.cli", "demo", "--out", str(image)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split(" on ")[1].split()[0]
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 1
    host, port = address.split(":")
    with pytest.raises(ConnectionRefusedError), socket.create_connection((host, int(port)), 5):
        pass


@pytest.mark.ci
def test_the_demo_distinguishes_the_portrait_from_the_masked_one(tmp_path: Path) -> None:
    image = tmp_path / "demo.png"
    found = subprocess.run(
        [sys.executable, "-m", "limelens.cli", "demo", "--out", str(image)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "the portrait: without_mask" in found.stdout
    assert "with a mask:  with_mask" in found.stdout
    with Image.open(image) as drawn:
        assert drawn.width > 3 * drawn.height
    people = found.stdout.partition("in a hall:    without_mask")[2]
    assert [people.count(one) for one in ("  face ", " with_mask   ", "(alert)")] == [4, 2, 2]
    with Image.open(tmp_path / "demo-faces.png") as frame:
        assert frame.size == (792, 432)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "nowhere"), "nowhere: no such folder"),
        (("--models", "{empty}"), "no models in it"),
        (("--models", "{models}", "--listen", "127.0.0.1:{taken}"), "{taken}"),
        (("--models", "{models}", "--listen", "0.0.0.0:0"), "--insecure"),
        (("--models", "{models}", "--face-detector", "{empty}/no.onnx"), "no.onnx: No such file"),
        (
            ("--models", "{models}", "--face-detector", "{models}/colours/1"),
            "for multiclass; expected one for detection",
        ),
    ],
)
def test_a_server_that_cannot_start_advises_what_to_do(
    one_model: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = {"models": one_model, "empty": tmp_path, "taken": taken.getsockname()[1]}
        found = subprocess.run(
            [*COMMAND, *(word.format(**names) for word in arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert found.returncode == 1
    assert message.format(**names) in found.stderr
    assert found.stderr.startswith("limelens: ")
    assert len(found.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        (("--access-log",), "--log-level info"),
        (("--access-log", "--log-level", "error"), "--log-level info"),
        (("--insecure-http",), "--http"),
        (("--max-waiting-per-client", "3"), "--max-calls-per-client"),
        (("--num-threads", "2", "--processes", "4"), "expected at least one"),
        (("--processes", "1", "--device", "cuda:0,1"), "at least one process for each"),
        (("--device", "gpu"), "auto, cpu, cuda, or GPUs by number"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(
    limelens: Callable[..., Any], tmp_path: Path, options: tuple[str, ...], needed: str
) -> None:
    # There is no such folder: whatever is not refused before ends with another exit code.
    result = limelens("serve", "--models", tmp_path / "nowhere", *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr
    assert needed in result.stderr


def test_missing_cuda_is_refused_with_the_reason(
    limelens: Callable[..., Any], one_model: Path
) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has an NVIDIA driver")
    result = limelens("serve", "--models", one_model, "--device", "cuda")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("limelens: CUDA was asked for and cannot be used: no NVIDIA driver")


def test_without_models_here_the_packaged_ones_are_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from limelens.cli.serving import default_models

    monkeypatch.chdir(tmp_path)
    packaged = default_models()
    assert (packaged / "facemask").is_dir()
    (tmp_path / "models").mkdir()
    assert default_models() == Path("models")
