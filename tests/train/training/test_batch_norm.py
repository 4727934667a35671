from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limelens.serve.image import ResizeRule, read_fitted
from limelens.train import TrainConfig, checkpoint, train
from limelens.train.architectures import build
from limelens.train.data.examples import Dataset, Example
from limelens.train.training.batch_norm import (
    renew_statistics,
    statistics_batches,
    statistics_images,
)
from limelens.train.training.recipe import averaged_weights

pytestmark = pytest.mark.usefixtures("blank_plots")


def images_of(folder: Path, side: int) -> Tensor:
    rule = ResizeRule(side, side)
    pixels = [read_fitted(path.read_bytes(), rule) for path in sorted(folder.rglob("*.png"))]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def probabilities(model: nn.Module, images: Tensor, *, by_batch: bool) -> Tensor:
    """With the statistics that the network keeps, or with those of the images themselves."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(by_batch)
    with torch.inference_mode():
        return torch.softmax(model(images), dim=1)


@pytest.mark.parametrize(
    ("arch", "ema_decay"),
    [
        ("resnet_tiny", 0.99),
        pytest.param("resnet_tiny", 0.0, marks=pytest.mark.ci),
        pytest.param("mobilenet_v3_small", 0.99, marks=pytest.mark.ci),
        *(
            pytest.param(name, 0.99, marks=pytest.mark.slow)
            for name in (
                "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2",
                "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5",
            )
        ),
    ],
)  # fmt: skip
def test_kept_weights_see_images_as_training_saw_them(
    divided: Path, tmp_path: Path, arch: str, ema_decay: float
) -> None:
    config = TrainConfig(
        arch=arch, input_size=(64, 64), epochs=2, batch_size=8, learning_rate=2e-3,
        augment="none", ema_decay=ema_decay,
    )  # fmt: skip
    train(divided, tmp_path / "run", config)
    images = images_of(divided / "train", 64)
    for name in ("best.pt", "last.pt"):
        model = checkpoint.load(tmp_path / "run" / name).model
        kept = probabilities(model, images, by_batch=False)
        difference = (kept - probabilities(model, images, by_batch=True)).abs()
        # Not 0: the variance of few images is divided by N or by N - 1.
        assert float(difference.mean()) < 0.04
        # Weights that answer the same for every image would agree too.
        assert float(kept[:, 0].std()) > 0.01


def test_statistics_are_gathered_without_dropout_or_stochastic_depth() -> None:
    model = build("efficientnet_b0", 2, input_size=(32, 32), dropout=0.5)
    batches = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8).tensor_split(2)
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        renew_statistics(model, batches)
        found.append(copy.deepcopy(model.state_dict()))
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]), key
    assert all(module.training for module in model.modules())


def test_a_network_without_batch_norm_is_left_alone() -> None:
    model = build("cnn3", 2, input_size=(32, 32))
    before = copy.deepcopy(model.state_dict())
    renew_statistics(model, [torch.zeros((2, 3, 32, 32), dtype=torch.uint8)])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_batches_of_statistics_are_equal_and_few(divided: Path) -> None:
    examples = [Example(path, (0,)) for path in sorted(divided.rglob("*.png"))]
    assert len(examples) == 76

    def batches(count: int = 1) -> list[Tensor]:
        return list(statistics_batches(statistics_images(examples * count, ResizeRule(8, 8), 0)))

    found = batches()
    assert [len(batch) for batch in found] == [38, 38]
    assert found[0].dtype == torch.uint8
    assert [len(batch) for batch in batches(10)] == [64] * 8
    assert all(torch.equal(*pair) for pair in zip(found, batches(), strict=True))


def test_averaging_leaves_tables_of_whole_numbers_alone() -> None:
    # As the table of relative positions of a Swin transformer.
    layer = nn.Linear(1, 1)
    layer.register_buffer("positions", torch.arange(100))
    averaged = averaged_weights(layer, 0.99)
    for _ in range(20):
        averaged.update_parameters(layer)
    assert torch.equal(averaged.module.state_dict()["positions"], torch.arange(100))


class EndsAfter:
    """Stops a run by Ctrl-C when an epoch is done."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def data_read(self, dataset: Dataset) -> None:
        pass

    def settings_chosen(self, config: TrainConfig, summary: str) -> None:
        pass

    def step(
        self, epoch: int, step: int, num_steps: int, loss: float, accuracy: float | None
    ) -> None:
        pass

    def epoch_done(self, row: Mapping[str, float]) -> None:
        if row["epoch"] == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.ci
@pytest.mark.parametrize("ema_decay", [0.99, pytest.param(0.0, marks=pytest.mark.slow)])
def test_statistics_are_the_same_after_an_interruption(
    divided: Path, tmp_path: Path, ema_decay: float
) -> None:
    config = TrainConfig(
        arch="resnet_tiny", input_size=(32, 32), epochs=3, batch_size=16, learning_rate=2e-3,
        ema_decay=ema_decay,
    )  # fmt: skip
    train(divided, tmp_path / "whole", config)
    train(divided, tmp_path / "parts", config, EndsAfter(2))
    train(divided, tmp_path / "parts", config, resume=True)
    for name in ("best.pt", "last.pt"):
        whole, parts = (
            checkpoint.load_state(tmp_path / run / name)["model"] for run in ("whole", "parts")
        )
        for key, value in whole.items():
            assert torch.equal(value, parts[key]), key
