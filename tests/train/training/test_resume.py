from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from limelens.train import TrainConfig, checkpoint, train
from limelens.train.config import ConfigError
from limelens.train.data.examples import Dataset
from limelens.train.runs import CheckpointError

pytestmark = pytest.mark.usefixtures("blank_plots")

# Includes everything random or stateful: dropout, averaged weights, mixing, augmentation.
CONFIG = TrainConfig(
    arch="cnn3", input_size=(32, 32), epochs=4, batch_size=8, learning_rate=1e-3, dropout=0.1,
    augment="light", mix="both", balance="sample",
)  # fmt: skip


class EndsAt:
    """Sends this process a signal in the middle of an epoch."""

    def __init__(self, epoch: int, step: int, number: signal.Signals) -> None:
        self.at, self.number = (epoch, step), number

    def data_read(self, dataset: Dataset) -> None:
        pass

    def settings_chosen(self, config: TrainConfig, summary: str) -> None:
        pass

    def step(
        self, epoch: int, step: int, num_steps: int, loss: float, accuracy: float | None
    ) -> None:
        del num_steps, loss, accuracy
        if (epoch, step) == self.at:
            os.kill(os.getpid(), self.number)

    def epoch_done(self, row: Mapping[str, float]) -> None:
        pass


def killed(data: Path, out: Path, config: TrainConfig, epoch: int, step: int) -> None:
    """Trains in another process that is killed with -9 in the middle of an epoch."""
    code = (
        "import json, signal, sys\n"
        "from pathlib import Path\n"
        "from limelens.train import TrainConfig, train\n"
        "from limelens.train.config import settings_from\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_resume import EndsAt\n"
        "data, out, settings, epoch, step = json.loads(sys.argv[1])\n"
        "config = TrainConfig(**settings_from(settings, 'settings'))\n"
        "train(Path(data), Path(out), config, EndsAt(epoch, step, signal.SIGKILL))\n"
    )
    settings = {name: value for name, value in config.to_json().items() if value is not None}
    found = subprocess.run(
        [sys.executable, "-c", code, json.dumps([str(data), str(out), settings, epoch, step])],
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == -signal.SIGKILL, found.stderr


def result_of(run: Path) -> tuple[str, Any, Any]:
    """Everything that an unbroken and a resumed run must have in common."""
    last = checkpoint.load_state(run / "last.pt")
    last["going"].pop("seconds")
    return (run / "metrics.csv").read_text(), checkpoint.load_state(run / "best.pt"), last


def assert_same(one: Any, other: Any) -> None:
    """Compares bit by bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, Mapping):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


@pytest.fixture(scope="module")
def unbroken(divided: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    train(divided, run, CONFIG)
    return run


@pytest.fixture(scope="module")
def broken(divided: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed with -9 in the middle of its third epoch."""
    run = tmp_path_factory.mktemp("broken") / "run"
    killed(divided, run, CONFIG, 3, 4)
    assert checkpoint.load_state(run / "last.pt")["epoch"] == 2
    return run


@pytest.mark.ci
def test_a_killed_run_is_resumed_with_the_same_result(
    divided: Path, unbroken: Path, broken: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(broken, tmp_path / "run")
    assert not (run / "report.json").exists()
    report = train(divided, run, CONFIG, resume=True)
    assert report["epochs"] == 4
    assert report["interrupted"] is False
    assert_same(result_of(run), result_of(unbroken))
    assert report["val"] == json.loads((unbroken / "report.json").read_text())["val"]
    assert (run / "curves.png").exists()


def test_a_run_killed_while_it_wrote_is_resumed(
    divided: Path, unbroken: Path, broken: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(broken, tmp_path / "run")
    # Half a file of each kind, a table that lacks a row, and the best checkpoint of a later epoch.
    half = (unbroken / "last.pt").read_bytes()[:5000]
    for name in ("last.tmp", "best.tmp", "metrics.csv.tmp"):
        (run / name).write_bytes(half)
    rows = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join(rows[:-1]))
    shutil.copy(unbroken / "best.pt", run / "best.pt")
    train(divided, run, CONFIG, resume=True)
    assert_same(result_of(run), result_of(unbroken))


def test_a_finished_run_is_reported_and_not_changed(
    divided: Path, unbroken: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(unbroken, tmp_path / "run")
    # Killed after the last checkpoint, before the table.
    rows = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join(rows[:-1]))
    report = train(divided, run, CONFIG, resume=True)
    before = json.loads((unbroken / "report.json").read_text())
    assert report["val"] == before["val"]
    assert report["epochs"] == 4
    for name in ("best.pt", "last.pt", "metrics.csv", "config.json"):
        assert (run / name).read_bytes() == (unbroken / name).read_bytes(), name


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"learning_rate": 2e-3},
            r"begun with --learning-rate 0\.001, not with --learning-rate 0\.002; ",
        ),
        (
            {"epochs": 8},
            "was begun with --epochs 4, not with --epochs 8; resume it with the command",
        ),
        ({"balance": "none"}, "was begun with --balance sample, not with --balance none"),
        ({"seed": 1}, "was begun with --seed 0, not with --seed 1"),
        (
            {"alert_labels": ("red", "green")},
            "was begun with no --alert-label, not with --alert-label red --alert-label green",
        ),
        ({"input_size": (32, 48)}, "with --input-size 32x32, not with --input-size 32x48"),
        ({"val_from_train": True}, "with no --val-from-train, not with --val-from-train"),
    ],
)
def test_other_settings_are_refused(
    divided: Path, broken: Path, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    run = shutil.copytree(broken, tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        train(divided, run, replace(CONFIG, **changed), resume=True)
    assert (run / "last.pt").read_bytes() == (broken / "last.pt").read_bytes()
    assert (run / "config.json").read_bytes() == (broken / "config.json").read_bytes()


def test_the_number_of_reading_processes_may_change(
    divided: Path, broken: Path, unbroken: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(broken, tmp_path / "run")
    train(divided, run, replace(CONFIG, num_workers=1), resume=True)
    for name in ("best.pt", "last.pt"):
        one, other = (checkpoint.load_state(folder / name) for folder in (run, unbroken))
        assert_same(one["model"], other["model"])


def test_changed_data_or_macro_labels_are_refused(divided: Path, tmp_path: Path) -> None:
    data, run = shutil.copytree(divided, tmp_path / "data"), tmp_path / "run"
    config = replace(CONFIG, epochs=1)
    train(data, run, config)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(data, run, config)
    macro = tmp_path / "macro.csv"
    macro.write_text("label,macro\nred,warm\ngreen,cold\n")
    with pytest.raises(ConfigError, match="was begun with other superclasses"):
        train(data, run, config, macro=macro, resume=True)
    next((data / "train" / "red").iterdir()).unlink()
    with pytest.raises(ConfigError, match="has changed since it was begun"):
        train(data, run, config, resume=True)


def test_resuming_an_empty_folder_starts_a_new_run(
    divided: Path, unbroken: Path, tmp_path: Path
) -> None:
    train(divided, tmp_path / "run", CONFIG, resume=True)
    assert_same(result_of(tmp_path / "run"), result_of(unbroken))


def test_a_best_checkpoint_without_a_last_one_is_not_thrown_away(
    divided: Path, unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    state = checkpoint.load_state(unbroken / "best.pt")
    checkpoint.save(run / "best.pt", {**state, "epoch": 3})
    with pytest.raises(ConfigError, match=r"holds best\.pt and no last\.pt to go on from"):
        train(divided, run, CONFIG, resume=True)
    assert (run / "best.pt").exists()
    # After a crash in the first epoch, the epoch is repeated.
    checkpoint.save(run / "best.pt", {**state, "epoch": 1})
    train(divided, run, CONFIG, resume=True)
    assert_same(result_of(run), result_of(unbroken))


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_stopped_by_ctrl_c_is_resumed(
    divided: Path, unbroken: Path, tmp_path: Path, epoch: int
) -> None:
    run = tmp_path / "run"
    report = train(divided, run, CONFIG, EndsAt(epoch, 2, signal.SIGINT))
    assert report["interrupted"] is True
    assert report["epochs"] == epoch - 1
    assert checkpoint.load(run).epoch <= epoch - 1
    report = train(divided, run, CONFIG, resume=True)
    assert report["interrupted"] is False
    assert_same(result_of(run), result_of(unbroken))


def test_a_damaged_last_checkpoint_is_reported(divided: Path, broken: Path, tmp_path: Path) -> None:
    run = shutil.copytree(broken, tmp_path / "run")
    (run / "last.pt").write_bytes((run / "last.pt").read_bytes()[:3000])
    with pytest.raises(CheckpointError, match=r"last\.pt is not a readable checkpoint"):
        train(divided, run, CONFIG, resume=True)


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not limit files")
def test_a_checkpoint_that_has_no_place_is_told_with_its_file(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*last\.pt'"):
            checkpoint.save(tmp_path / "last.pt", {"model": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
