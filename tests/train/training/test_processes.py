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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.train.training.noted_run import build_without_dropout

from limelens.train import TrainConfig, checkpoint
from limelens.train.training import loop
from limelens.train.training.distributed import ProcessError, joined

_NOTED_RUN = Path(__file__).with_name("noted_run.py")
_OPTIONS = (
    "--input-size", "32", "--epochs", "3", "--batch-size", "8", "--learning-rate", "1e-3",
    "--augment", "light", "--balance", "sample", "--json",
)  # fmt: skip
_CONFIG = TrainConfig(
    arch="cnn3", input_size=(32, 32), epochs=3, batch_size=8, learning_rate=1e-3, augment="light",
    balance="sample",
)  # fmt: skip
_NUM_STEPS = 6
"""Of an epoch."""
_WHEN_KILLED = {".lock", "best.pt", "config.json", "last.pt", "metrics.csv"}

pytestmark = pytest.mark.usefixtures("blank_plots")
on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="processes share decoded images on Linux alone"
)


def torchrun(
    *arguments: object, processes: int = 2, restarts: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
            "--max-restarts", str(restarts), "--standalone", *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def trained(
    data: Path,
    run: Path,
    *options: str,
    arch: str = "cnn3",
    processes: int = 2,
    restarts: int = 0,
    dies: str = "",
) -> subprocess.CompletedProcess[str]:
    """Trains, or fails before a step; a folder beside the run has the notes."""
    notes = run.with_suffix(".notes")
    notes.mkdir(exist_ok=True)
    arguments = ("train", data, "--out", run, "--arch", arch, *_OPTIONS, *options)
    environment = {"NOTES": str(notes), "DIES": dies}
    found = torchrun(_NOTED_RUN, *arguments, processes=processes, restarts=restarts, **environment)
    assert (found.returncode == 0) == (not dies or restarts > 0), found.stderr
    return found


def notes_of(run: Path, kind: str) -> list[list[str]]:
    """What the processes noted, by rank."""
    files = sorted(run.with_suffix(".notes").glob(f"{kind}-*"))
    return [file.read_text().splitlines() for file in files]


def rows_of(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def assert_alike(run: Path, other: Path) -> None:
    """Compares all epochs, and the last networks."""
    for one, two in zip(rows_of(run), rows_of(other), strict=True):
        # Sums are in another order; Adam's first steps enlarge the rounding errors.
        assert one == pytest.approx(two, rel=1e-3, abs=1e-4)
    states = [checkpoint.load(path / "last.pt").model.state_dict() for path in (run, other)]
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=0.01, atol=2e-3)


@pytest.fixture(scope="module")
def of_one(divided: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of one process; meanwhile this process builds networks as `noted_run` does."""
    run = tmp_path_factory.mktemp("of_one") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "build_model", build_without_dropout)
        loop.train(divided, run, _CONFIG)
        yield run


@on_linux
@pytest.mark.ci
def test_a_run_goes_on_with_one_process_after_one_of_two_was_killed(
    divided: Path, of_one: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    found = trained(divided, run, dies=f"1:{_NUM_STEPS + 3}")
    assert "SIGKILL" in found.stderr
    assert found.stdout == ""
    for line in ("2 labels; images", "epoch   1/3"):
        assert found.stderr.count(line) == 1, found.stderr
    # Nothing of the shared images is left, and the network is that of the last whole epoch.
    assert {path.name for path in run.iterdir()} == _WHEN_KILLED
    assert checkpoint.load(run / "last.pt").epoch == 1
    (read,), decoded, kept = (notes_of(run, kind) for kind in ("read", "decoded", "kept"))
    assert len(read) == 76
    assert [len(images) for images in decoded] == [32, 32]
    assert len({*decoded[0], *decoded[1]}) == 64
    assert kept[0] == kept[1]
    assert loop.train(divided, run, _CONFIG, resume=True)["epochs"] == 3
    assert_alike(run, of_one)


@pytest.mark.slow
def test_two_processes_give_one_run_and_one_document(divided: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = trained(divided, run)
    report = json.loads(found.stdout)
    assert report["epochs"] == 3
    assert report["val"]["accuracy"] >= 0.75
    assert len(rows_of(run)) == 3
    for line in ("2 labels; images", "epoch   1/3", "epoch   3/3"):
        assert found.stderr.count(line) == 1, found.stderr
    assert checkpoint.load(run / "last.pt").epoch == 3


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_learn_what_one_learns(
    divided: Path, of_one: Path, tmp_path: Path, processes: int
) -> None:
    # Three share a batch of eight: 3, 3 and 2 images.
    run = tmp_path / "run"
    trained(divided, run, processes=processes)
    assert_alike(run, of_one)
    assert len({tuple(networks) for networks in notes_of(run, "kept")}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 3)])
def test_a_run_is_resumed_with_another_number_of_processes(
    divided: Path, of_one: Path, tmp_path: Path, before: int, after: int
) -> None:
    run = tmp_path / "run"
    trained(divided, run, processes=before, dies=f"0:{2 * _NUM_STEPS + 2}")
    assert checkpoint.load(run / "last.pt").epoch == 2
    trained(divided, run, "--resume", processes=after)
    assert_alike(run, of_one)


@pytest.mark.slow
def test_torchrun_itself_resumes_a_run_of_which_a_process_was_killed(
    divided: Path, of_one: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    found = trained(divided, run, "--resume", restarts=1, dies=f"0:{2 * _NUM_STEPS + 2}")
    assert json.loads(found.stdout)["epochs"] == 3
    assert_alike(run, of_one)


@on_linux
@pytest.mark.slow
def test_processes_validate_one_network_with_one_set_of_statistics(
    divided: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trained(divided, run, "--epochs", "2", arch="resnet_tiny")
    kept, decoded = (notes_of(run, kind) for kind in ("kept", "decoded"))
    assert len({*kept[0]}) == 2
    assert kept[0] == kept[1]
    # 48 images to learn from and for the statistics, of another size, and 16 for validation.
    counts = Counter(image for images in decoded for image in images)
    assert sorted(counts.values()) == [1] * 16 + [2] * 48
    assert abs(len(decoded[0]) - len(decoded[1])) <= 1


_VALIDATION = """
import json, sys
from pathlib import Path
import torch
from limelens.train import TrainConfig
from limelens.train.architectures import build
from limelens.train.data.dataset import read_dataset
from limelens.train.training.distributed import joined
from limelens.train.training.validating import Validation

config = TrainConfig(arch="resnet_tiny", input_size=(32, 32))
with joined() as processes:
    for data in sys.argv[1:]:
        torch.manual_seed(1)
        model = build("resnet_tiny", 2, input_size=(32, 32))
        validation = Validation(read_dataset(Path(data)), config, processes, Path(data))
        metrics = validation.metrics(model)
        if metrics is not None:
            print(json.dumps(metrics))
"""


@pytest.mark.slow
def test_shared_validation_has_the_metrics_of_one_process(divided: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    for split, count in (("train", 3), ("val", 1)):
        for label in ("red", "green"):
            folder = few / split / label
            folder.mkdir(parents=True)
            for path in sorted((divided / "train" / label).iterdir())[-count:]:
                (folder / path.name).write_bytes(path.read_bytes())
    script = tmp_path / "script.py"
    script.write_text(_VALIDATION)
    # 16 images are 5, 5 and 6; two leave one process without any.
    outputs = [torchrun(script, divided, few, processes=count).stdout for count in (1, 3)]
    one, three = ([json.loads(line) for line in output.splitlines()] for output in outputs)
    assert [metrics["num_images"] for metrics in one] == [16, 2]
    for alone, shared in zip(one, three, strict=True):
        assert alone.keys() == shared.keys()
        for name, value in alone.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                assert shared[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
            elif name in ("confusion", "labels", "task"):
                assert shared[name] == value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", "2"), "a batch has 2 images; expected one at least for each of the 3"),
        (("--alert-label", "blue"), "alert label 'blue' is not one of the labels"),
        (("--out", "{file}/run"), "{file} is a file; expected a folder"),
    ],
)
def test_an_error_is_reported_once(
    divided: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    run, file = tmp_path / "run", tmp_path / "file"
    file.write_text("")
    options = tuple(option.format(file=file) for option in options)
    arguments = ("train", divided, "--out", run, "--arch", "cnn3", *_OPTIONS, *options)
    found = torchrun("-m", "limelens.cli", *arguments, processes=3)
    assert found.returncode != 0
    assert found.stdout == ""
    assert found.stderr.count(f"limelens: {message.format(file=file)}") == 1, found.stderr
    assert not run.exists()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "LOCAL_RANK is not set; start several processes with torchrun"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE is 'x'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        (
            {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "RANK": "0"},
            "MASTER_ADDR expected, but not set; start several processes with torchrun",
        ),
    ],
)
def test_an_environment_of_other_tools_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match=message), joined():
        pass
