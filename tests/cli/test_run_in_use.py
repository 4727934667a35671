"""A run has one writer at a time: what others get while another process trains it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import unframed

Run = Callable[..., Any]
OPTIONS = (
    "--arch", "cnn3", "--input-size", 32, "--epochs", 2, "--batch-size", 8, "--augment", "none",
)  # fmt: skip
# Trains by the command line, and stops itself in the middle of an epoch.
TRAINER = """
import os, signal, sys
from torch.optim.optimizer import register_optimizer_step_pre_hook
from limelens.cli import main

steps = 0

def stop(*_):
    global steps
    steps += 1
    if steps == int(os.environ["STOPS_AT"]):
        os.kill(os.getpid(), signal.SIGSTOP)

register_optimizer_step_pre_hook(stop)
main()
"""
STEPS = 4
"""Of an epoch."""


@pytest.fixture
def stopped(images: Path, tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    """Starts a training of `run` in another process, and waits until it stops at a step."""
    started: list[subprocess.Popen[bytes]] = []

    def start(step: int) -> subprocess.Popen[bytes]:
        arguments = ("train", images, "--out", tmp_path / "run", *OPTIONS)
        one = subprocess.Popen(
            [sys.executable, "-c", TRAINER, *map(str, arguments)],
            env={**os.environ, "STOPS_AT": str(step)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(one)
        _, status = os.waitpid(one.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status
        return one

    yield start
    for one in started:
        one.kill()
        one.wait()


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


def test_a_run_in_training_has_one_writer_until_that_is_killed(
    limelens: Run,
    images: Path,
    tmp_path: Path,
    stopped: Callable[[int], subprocess.Popen[bytes]],
) -> None:
    run = tmp_path / "run"
    trainer = stopped(STEPS + 2)
    before = contents(run)
    holder = f"limelens train (process {trainer.pid} on "
    for arguments, parameter in (
        (("train", images, "--out", run, *OPTIONS, "--resume"), "--out"),
        (("train", images, "--out", run, *OPTIONS), "--out"),
        (("calibrate", run, images), "RUN"),
    ):
        result = limelens(*arguments)
        assert result.exit_code == 2, result.stderr
        assert result.stdout == ""
        assert f"Invalid value for '{parameter}'" in result.said
        assert f"{run.name} is in use: {holder}" in result.said
        assert "wait until that has ended" in result.said
        # What is begun in another folder resumes nothing.
        has_choice = arguments[0] == "train" and "--resume" not in arguments
        assert ("choose another folder (--out)" in result.said) == has_choice
    assert contents(run) == before

    exporting = ("export", run, "--name", "x", "--models", tmp_path / "models", "--anyway")
    for reading in (
        ("evaluate", run, images),
        ("evaluate", run / "best.pt", images),
        (*exporting, "--explain-settings", "none"),
    ):
        result = limelens(*reading)
        assert result.exit_code == 0, result.stderr
        (line,) = (one for one in result.stderr.splitlines() if holder in one)
        assert line.endswith(f"still writes into {run}: this is about its best epoch so far")
    assert contents(run) == before

    trainer.kill()
    trainer.wait()
    assert "still writes" not in limelens("evaluate", run, images).stderr
    resumed = limelens("train", images, "--out", run, *OPTIONS, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert resumed.json["epochs"] == 2
    assert limelens("calibrate", run, images).exit_code == 0


def test_a_run_in_its_first_epoch_is_in_use_too(
    limelens: Run,
    images: Path,
    tmp_path: Path,
    stopped: Callable[[int], subprocess.Popen[bytes]],
) -> None:
    run = tmp_path / "run"
    stopped(2)
    assert limelens("train", images, "--out", run, *OPTIONS).exit_code == 2
    for arguments in (("evaluate", run, images), ("export", run, "--name", "x")):
        result = limelens(*arguments)
        assert result.exit_code == 1
        assert "yet, since its first epoch has not ended: limelens train" in result.stderr


@pytest.mark.slow
def test_all_processes_of_a_second_training_end_with_one_error(
    images: Path, tmp_path: Path, stopped: Callable[[int], subprocess.Popen[bytes]]
) -> None:
    trainer = stopped(STEPS + 2)
    run = tmp_path / "run"
    torchrun = (
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
    )  # fmt: skip
    arguments = ("train", images, "--out", run, *OPTIONS, "--resume")
    found = _ended([*torchrun, "-m", "limelens.cli", *arguments])
    assert (
        unframed(found.stderr).count(f"is in use: limelens train (process {trainer.pid} on ") == 1
    )
    # The folder is looked at a second time once the processes have joined.
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from limelens.serve.errors import LimelensError\n"
        "from limelens.train import train\n"
        "try:\n"
        "    train(Path(sys.argv[1]), Path(sys.argv[2]), resume=True)\n"
        "except LimelensError as error:\n"
        "    print(os.environ['RANK'], error, flush=True)\n"
        "    sys.exit(1)\n"
    )
    found = _ended([*torchrun, script, images, run])
    lines = sorted(one for one in found.stdout.splitlines() if "is in use: limelens train" in one)
    assert [line[:2] for line in lines] == ["0 ", "1 "], found


def _ended(command: list[object]) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode != 0, found
    return found
