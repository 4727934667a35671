from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from limelens.serve.bundle import Task
from limelens.train import TrainConfig, train
from limelens.train.architectures import build
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import Dataset, Example
from limelens.train.training.best_epoch import epoch_score
from limelens.train.training.suited import input_size_for, suited, summary


def data_of(num_images: int, shape: tuple[int, int] | None = None) -> Dataset:
    splits = {"train": (Example(Path("x"), (0,)),) * num_images}
    return Dataset(("a", "b"), splits, (), "", shape=shape)


@pytest.mark.parametrize(
    ("num_images", "epochs", "batch_size"),
    [(10, 90, 16), (100, 64, 16), (1000, 36, 16), (1001, 36, 32), (10_000, 24, 32)],
)
def test_few_images_get_more_epochs_and_small_batches(
    num_images: int, epochs: int, batch_size: int
) -> None:
    config = suited(TrainConfig(), data_of(num_images))
    assert (config.epochs, config.batch_size) == (epochs, batch_size)
    assert config.learning_rate == {16: 1e-3, 32: 2e-3}[batch_size]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((270, 113), (176, 80)),
        ((113, 270), (80, 176)),
        ((160, 108), (144, 96)),
        ((160, 120), (112, 112)),
        ((1000, 10), (176, 64)),
        (None, (112, 112)),
    ],
)
def test_the_input_is_as_oblong_as_the_images(
    shape: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    assert input_size_for("mobilenet_v3_small", shape) == expected
    build("mobilenet_v3_small", 2, input_size=expected)
    assert input_size_for("vit_b_16", shape) == (224, 224)
    assert input_size_for("cnn3", shape) == (256, 256)


def test_what_is_given_is_kept_and_not_mentioned() -> None:
    data = data_of(120, (270, 113))
    given = TrainConfig(epochs=3, input_size=(64, 64), batch_size=40)
    config = suited(given, data)
    assert config == replace(given, learning_rate=2e-3)
    assert summary(given, config, data) == (
        "For 120 training images of about 270x113: learning rate 0.002, standard augmentation; "
        "options of these names change it"
    )
    assert summary(config, config, data) == ""
    assert summary(TrainConfig(), suited(TrainConfig(), data), data) == (
        "For 120 training images of about 270x113: 61 epochs, input size 176x80, batch size 16, "
        "learning rate 0.001, standard augmentation; options of these names change it"
    )


def test_data_knows_how_large_its_training_images_are(divided: Path) -> None:
    assert read_dataset(divided).shape == (48, 40)


@pytest.mark.usefixtures("blank_plots")
def test_a_resumed_run_keeps_what_was_chosen(divided: Path, tmp_path: Path) -> None:
    data, run = shutil.copytree(divided, tmp_path / "data"), tmp_path / "run"
    begun = TrainConfig(arch="cnn3", input_size=(32, 32), epochs=1, batch_size=12)
    train(data, run, begun)
    config = json.loads((run / "config.json").read_text())
    assert (config["epochs"], config["learning_rate"]) == (1, 1e-3)
    # By themselves, there would be 75 epochs with batches of 16.
    report = train(data, run, replace(begun, epochs=None, batch_size=None), resume=True)  # type: ignore[arg-type]
    assert report["epochs"] == 1
    assert json.loads((run / "config.json").read_text()) == config


def test_an_epoch_is_not_kept_for_a_lucky_loss() -> None:
    losses = [0.7, 0.6, 0.5, 0.45, 0.05, 0.45, 0.4, 0.35, 0.3]
    rows = [{"val_loss": loss, "val_accuracy": 0.5 + i / 100} for i, loss in enumerate(losses)]

    def best(num_images: int, task: Task = Task.MULTICLASS) -> int:
        scores = [epoch_score(rows[: i + 1], num_images, task) for i in range(len(rows))]
        return scores.index(max(scores))

    assert best(15) == 8
    assert best(199) == 8
    assert best(200) == 4
    assert best(1000) == 8
    assert best(1000, Task.MULTILABEL) == 4
