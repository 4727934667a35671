"""The programs in examples/: they run against a real server, and their types hold."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0)}


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for name, colour in COLOURS.items():
        made[name] = tmp_path / f"{name}.jpg"
        Image.fromarray(np.full((40, 40, 3), colour, np.uint8)).save(made[name])
    return made


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_examples_pass_the_type_checker(tmp_path: Path) -> None:
    """As a user checks them: strictly, without this project's settings for mypy."""
    roots = os.pathsep.join(str(ROOT / root) for root in ("serve", "explain", "proto"))
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--config-file=", "--explicit-package-bases",
            "--follow-imports=silent", f"--cache-dir={tmp_path}",
            EXAMPLES / "python" / "door_camera.py",
            EXAMPLES / "python" / "door_controller.py",
            EXAMPLES / "python" / "webhook_receiver.py",
        ],
        env={**os.environ, "MYPYPATH": roots},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_stubs_alone_are_enough(
    start_server: Callable[..., Any], images: dict[str, Path], tmp_path: Path
) -> None:
    script = EXAMPLES / "python" / "stub_only.py"
    done = run(sys.executable, script, start_server().address, images["red"], folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "red.jpg: red 0.9" in done.stdout
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "text.jpg").write_bytes(b"nothing")
    done = run(
        sys.executable, script, start_server().address, tmp_path / "text.jpg", folder=tmp_path
    )
    assert done.returncode == 1
    assert "INVALID_ARGUMENT: images[0].encoded: not a supported image" in done.stderr


def test_a_door_is_watched_while_images_come_and_the_server_goes(
    start_server: Callable[..., Any], images: dict[str, Path], tmp_path: Path
) -> None:
    door = tmp_path / "door"
    door.mkdir()
    server = start_server()
    command = [sys.executable, EXAMPLES / "python" / "door_camera.py", server.address, door]
    colour = "red"
    over = threading.Event()

    def take_images() -> None:
        for number in itertools.count():
            shutil.copy(images[colour], door / "coming")
            (door / "coming").rename(door / f"{number:06}.jpg")
            if over.wait(0.1):
                return

    camera = threading.Thread(target=take_images)
    camera.start()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        said = (line.partition(" ")[2].strip() for line in it.stdout)
        late = "UNKNOWN: no frame was classified for too long"
        before = ""

        def until_said(line: str) -> None:
            nonlocal before
            while (now := next(said)) != line:
                # On a busy machine a decision may expire, and is then made again.
                assert now in (late, before)
            before = line

        try:
            until_said("UNKNOWN: nothing was decided yet")
            until_said("ALERT: red")
            colour = "green"
            until_said("CLEAR: green")
            server.stop()
            until_said("UNKNOWN: the server does not answer")
            start_server(listen=server.address)
            until_said("UNKNOWN: nothing was decided yet")
            until_said("CLEAR: green")
            over.set()
            camera.join()
            until_said(late)
            (door / "end").touch()
            until_said("UNKNOWN: nobody watches any more")
            assert it.wait(60) == 0
        finally:
            over.set()
            it.kill()


@pytest.fixture(scope="session")
def node_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node example with its packages, beside the contract."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed; the example in examples/node needs them")
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "proto", folder / "proto")
    here = folder / "examples" / "node"
    shutil.copytree(EXAMPLES / "node", here)
    if not (here / "node_modules").is_dir():
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
        try:
            subprocess.run(command, cwd=here, check=True, capture_output=True, timeout=180)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            pytest.skip("npm ci failed: the packages of examples/node cannot be fetched from here")
    return here


def test_node_needs_only_the_contract(
    start_server: Callable[..., Any], images: dict[str, Path], node_example: Path, tmp_path: Path
) -> None:
    address = start_server().address

    def node(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run("node", "classify.js", "--server", address, *arguments, folder=node_example)

    red, green = images["red"], images["green"]
    done = node(red, green)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{red}: red 0.9")
    assert lines[0].endswith("(colours 1) ALERT")
    assert lines[1].startswith(f"{green}: green 0.9")
    assert lines[2:] == [
        "frame 0: FRAME_STATUS_CLASSIFIED CAMERA_STATE_ALERT red",
        "frame 1: FRAME_STATUS_CLASSIFIED CAMERA_STATE_CLEAR green",
    ]
    (tmp_path / "text.jpg").write_bytes(b"nothing")
    done = node(tmp_path / "text.jpg")
    assert done.returncode == 1
    assert "images[0].encoded: not a supported image" in done.stderr
    done = node()
    assert done.returncode == 2
    assert "usage:" in done.stderr
