from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from limelens.serve.bundle import Task
from limelens.train import TrainConfig, checkpoint, evaluate, train
from limelens.train.config import ConfigError
from limelens.train.training.teacher import Teacher

PUPIL = TrainConfig(
    arch="cnn3",
    input_size=(40, 40),
    epochs=4,
    batch_size=8,
    learning_rate=1e-3,
    augment="light",
    teacher_weight=1.0,
)


@pytest.mark.usefixtures("blank_plots")
def test_a_network_learns_what_its_teacher_sees_and_not_the_labels(
    divided: Path, trained_run: Path, tmp_path: Path
) -> None:
    swapped = tmp_path / "swapped"
    (swapped / "train").mkdir(parents=True)
    (swapped / "val").symlink_to(divided / "validation")
    for label, other in (("green", "red"), ("red", "green")):
        (swapped / "train" / label).symlink_to(divided / "train" / other)
    train(swapped, tmp_path / "run", replace(PUPIL, teacher=str(trained_run)))
    assert evaluate(tmp_path / "run", divided)["accuracy"] >= 0.9
    assert json.loads((tmp_path / "run" / "config.json").read_text())["teacher"] == str(trained_run)


def test_a_teacher_with_other_labels_is_refused(
    divided: Path, trained_run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for split in ("train", "validation"):
        (other / split).mkdir(parents=True)
        (other / split / "green").symlink_to(divided / split / "green")
        (other / split / "ruby").symlink_to(divided / split / "red")
    with pytest.raises(
        ConfigError, match="labels green, red; expected multiclass with green, ruby"
    ):
        train(other, tmp_path / "run", replace(PUPIL, teacher=str(trained_run)))


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.MULTILABEL])
def test_the_loss_is_smallest_where_both_say_the_same(trained_run: Path, task: Task) -> None:
    loaded = replace(checkpoint.load(trained_run), task=task)
    taught = torch.tensor([[2.0, -1.0], [0.5, 0.3]])
    logits = taught.clone().requires_grad_()
    loss = Teacher(loaded, 1.0, 3.0).mixed(torch.zeros(()), logits, taught)
    (slope,) = torch.autograd.grad(loss, logits)
    assert slope.abs().max() < 1e-6
    labels_only = Teacher(loaded, 0.25, 3.0).mixed(torch.tensor(8.0), taught, taught)
    other = Teacher(loaded, 0.25, 3.0).mixed(torch.tensor(8.0), -taught, taught)
    assert other > labels_only >= 6
