"""Runs shared by processes, as torchrun starts them.

They are compared with a run of one process, without dropout, whose random numbers differ between
processes, and without batch normalisation, whose statistics on a CPU are those of a process's part
of the batch (GPUs synchronise them).
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from limelens.train import checkpoint

_OPTIONS = (
    "--arch", "cnn3", "--input-size", "32", "--epochs", "3", "--batch-size", "8",
    "--learning-rate", "1e-3", "--augment", "light", "--json",
)  # fmt: skip


def torchrun(*arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
            "--standalone", *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def rows_of(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.ci
def test_two_processes_give_one_run_and_one_document(divided: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = torchrun("-m", "limelens.cli", "train", divided, "--out", run, *_OPTIONS)
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["epochs"] == 3
    assert report["val"]["accuracy"] >= 0.75
    assert len(rows_of(run)) == 3
    for line in ("2 labels; images", "epoch   1/3", "epoch   3/3"):
        assert found.stderr.count(line) == 1, found.stderr
    assert checkpoint.load(run / "last.pt").epoch == 3


_WITHOUT_DROPOUT = """
import sys
from pathlib import Path
from torch import nn
from limelens.train import TrainConfig
from limelens.train.training import loop as training
build_model = training.build_model

def without_dropout(config, dataset):
    model = build_model(config, dataset)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model

training.build_model = without_dropout
config = TrainConfig(
    arch="cnn3", input_size=(32, 32), epochs=3, batch_size=8, learning_rate=1e-3,
    augment="light", balance="sample",
)
training.train(Path(sys.argv[1]), Path(sys.argv[2]), config)
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(divided: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_WITHOUT_DROPOUT)
    runs = {}
    for processes in (1, 2):
        runs[processes] = tmp_path / f"run{processes}"
        found = torchrun(script, divided, runs[processes], processes=processes)
        assert found.returncode == 0, found.stderr
    for one, two in zip(rows_of(runs[1]), rows_of(runs[2]), strict=True):
        # Sums are in another order; Adam's first steps enlarge the rounding errors.
        assert one == pytest.approx(two, rel=1e-3, abs=1e-4)
    states = [checkpoint.load(runs[processes]).model.state_dict() for processes in (1, 2)]
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=0.01, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", "7"), "batch_size is 7; expected a multiple of the 2 processes"),
        (("--alert-label", "blue"), "alert label 'blue' is not one of the labels"),
    ],
)
def test_an_error_of_all_processes_is_reported_once(
    divided: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    run = tmp_path / "run"
    found = torchrun("-m", "limelens.cli", "train", divided, "--out", run, *_OPTIONS, *options)
    assert found.returncode != 0
    assert found.stdout == ""
    assert found.stderr.count(f"limelens: {message}") == 1, found.stderr
    assert not run.exists()
