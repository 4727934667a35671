from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from limelens.serve.bundle import Task
from limelens.train import TrainConfig, train
from limelens.train.architectures import build
from limelens.train.data.examples import Example
from limelens.train.training.recipe import (
    SmoothedBinaryCrossEntropy,
    averaged_weights,
    build_criterion,
    build_mix,
    build_optimizer,
    build_schedule,
    mixed_precision,
    num_correct,
)

pytestmark = pytest.mark.usefixtures("blank_plots")

TINY = TrainConfig(
    arch="cnn3", input_size=(32, 32), epochs=3, batch_size=8, learning_rate=1e-3, augment="none"
)


def random_targets(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((6, 4), generator=generator)
    return logits, (torch.rand((6, 4), generator=generator) < 0.4).float()


def test_binary_cross_entropy_without_smoothing_is_torchs() -> None:
    logits, targets = random_targets()
    weights = np.array([1.0, 2.0, 3.0, 0.5])
    plain = SmoothedBinaryCrossEntropy(np.full(4, 0.3), 0.0)(logits, targets)
    assert plain == nn.BCEWithLogitsLoss()(logits, targets)
    weighted = SmoothedBinaryCrossEntropy(np.full(4, 0.3), 0.0, weights)(logits, targets)
    expected = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights))(logits, targets)
    assert weighted == pytest.approx(expected)


def test_smoothing_draws_targets_towards_each_labels_share() -> None:
    logits, targets = random_targets()
    shares = np.array([0.1, 0.5, 0.9, 0.2])
    found = SmoothedBinaryCrossEntropy(shares, 0.2)(logits, targets)
    smoothed = targets.numpy() * 0.8 + shares * 0.2
    p = torch.sigmoid(logits).numpy()
    assert found == pytest.approx(-(smoothed * np.log(p) + (1 - smoothed) * np.log(1 - p)).mean())
    # The best prediction that ignores the image is still the share itself.
    base = torch.logit(torch.tensor(shares, dtype=torch.float32)).expand(1000, 4).clone()
    drawn = (torch.rand((1000, 4), generator=torch.Generator().manual_seed(0)).numpy() < shares) * 1
    base.requires_grad_()
    shown = SmoothedBinaryCrossEntropy(drawn.mean(axis=0), 0.5)
    shown(base, torch.tensor(drawn, dtype=torch.float32)).backward()
    assert base.grad is not None
    assert base.grad.sum(dim=0).abs().max() < 0.02


def test_the_loss_follows_task_and_balance() -> None:
    examples = [Example(Path("x"), (0,))] * 30 + [Example(Path("y"), (1,))] * 10
    weighted = replace(TINY, balance="weight", label_smoothing=0.0)
    cross = build_criterion(weighted, Task.MULTICLASS, examples, 2)
    assert isinstance(cross, nn.CrossEntropyLoss)
    assert cross.weight is not None
    assert cross.weight.tolist() == pytest.approx([2 / 3, 2.0])
    binary = build_criterion(weighted, Task.MULTILABEL, examples, 2)
    assert isinstance(binary, SmoothedBinaryCrossEntropy)
    assert binary.weights is not None
    assert torch.as_tensor(binary.weights).tolist() == pytest.approx([1.0, np.sqrt(2.0)])
    assert torch.as_tensor(binary.shares).tolist() == [0.75, 0.25]
    plain = build_criterion(TINY, Task.MULTICLASS, examples, 2)
    assert isinstance(plain, nn.CrossEntropyLoss)
    assert plain.weight is None
    assert plain.label_smoothing == 0.05


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "both"])
def test_mixed_targets_share_one_image_between_two(mix: str) -> None:
    torch.manual_seed(0)
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 16, 16).clone()
    mixed = build_mix(mix, 5, Task.MULTICLASS)
    assert mixed is not None
    seen = set()
    for _ in range(20):
        blended, targets = mixed(images, torch.arange(8) % 5)
        assert blended.shape == images.shape
        assert targets.shape == (8, 5)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
        seen.add(round(float(targets.max()), 3))
    assert len(seen) > 5
    assert num_correct(targets * 3, targets) == 8


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "both"])
def test_several_labels_are_mixed_as_they_are(mix: str) -> None:
    torch.manual_seed(0)
    mixed = build_mix(mix, 3, Task.MULTILABEL)
    assert mixed is not None
    own = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    for _ in range(10):
        _, targets = mixed(torch.rand((3, 3, 16, 16)), own.clone())
        # Each is its own image's share plus the one's before it.
        before = own.roll(1, 0)
        shared = targets[1, 0]
        torch.testing.assert_close(targets, own * (1 - shared) + before * shared)


def test_without_a_mix_there_is_none() -> None:
    assert build_mix("none", 3, Task.MULTICLASS) is None


def test_averaged_weights_forget_the_first_steps() -> None:
    layer = nn.Linear(1, 1, bias=False)
    averaged = averaged_weights(layer, 0.9)
    expected = 0.0
    for step in range(100):
        layer.weight.data.fill_(float(step))
        averaged.update_parameters(layer)
        rate = min(0.9, (1 + step) / (10 + step)) if step else 0.0
        expected = rate * expected + (1 - rate) * step
    found = float(averaged.module.state_dict()["weight"])
    assert found == pytest.approx(expected, rel=1e-5)
    # A moving average of 0.9 lags behind a steady climb by nine steps.
    assert found == pytest.approx(90, abs=1)


def test_weight_decay_spares_biases_and_normalisation() -> None:
    model = build("mobilenet_v3_small", 2, input_size=(64, 64))
    decayed, spared = build_optimizer(model, TINY).param_groups
    assert decayed["weight_decay"] == TINY.weight_decay
    assert spared["weight_decay"] == 0.0
    assert {p.ndim for p in spared["params"]} == {1}
    assert min(p.ndim for p in decayed["params"]) >= 2
    both = len(decayed["params"]) + len(spared["params"])
    assert both == len(list(model.parameters()))


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
@pytest.mark.parametrize("num_steps", [1, 2, 10, 33])
def test_every_schedule_lasts_just_as_long_as_the_run(schedule: str, num_steps: int) -> None:
    config = replace(TINY, schedule=schedule)
    optimizer = build_optimizer(nn.Linear(2, 2), config)
    scheduler = build_schedule(optimizer, config, num_steps)
    rates = []
    for _ in range(num_steps):
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert max(rates) <= config.learning_rate * (1 + 1e-9)
    assert min(rates) >= 0
    if num_steps == 33:
        assert max(rates) == pytest.approx(config.learning_rate, rel=0.02)
        assert rates[-1] < 0.01 * config.learning_rate


def test_dropout_works_in_training_and_not_in_evaluation() -> None:
    model = build("cnn4", 2, input_size=(32, 32), dropout=0.5)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    model.backbone.eval()
    model.dropout.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
    without = build("cnn4", 2, input_size=(32, 32))
    without.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(without.eval()(images), model(images))


@pytest.mark.parametrize(
    ("arch", "may_gain"), [("resnet18", True), ("mobilenet_v3_small", False), ("cnn3", False)]
)
def test_a_processor_computes_in_bfloat16_where_that_is_faster(arch: str, may_gain: bool) -> None:
    model = build(arch, 2, input_size=(32, 32))
    cpu = torch.device("cpu")
    capabilities = getattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False})
    has_amx = capabilities().get("amx_bf16", False)
    with mixed_precision(TINY, cpu, model):
        assert torch.is_autocast_enabled("cpu") == (may_gain and has_amx)
    with mixed_precision(replace(TINY, mixed_precision="off"), cpu, model):
        assert not torch.is_autocast_enabled("cpu")
    with mixed_precision(replace(TINY, mixed_precision="bf16"), cpu, model):
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"balance": "sample"},
        {"balance": "weight"},
        {"mix": "mixup"},
        {"mix": "cutmix"},
        {"mix": "both", "balance": "sample"},
        {"schedule": "cosine"},
        {"ema_decay": 0.0, "dropout": 0.2},
        {"mixed_precision": "bf16"},
        {"mixed_precision": "bf16", "mix": "both", "balance": "weight"},
    ],
    ids=str,
)
def test_every_option_trains_a_tiny_network_that_improves(
    divided: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    report = train(divided, tmp_path / "run", replace(TINY, **settings))  # type: ignore[arg-type]
    assert report["val"]["loss"] < 0.6
    assert report["val"]["accuracy"] >= 0.75
    assert json.loads((tmp_path / "run" / "config.json").read_text()).items() >= settings.items()


@pytest.mark.parametrize(
    "settings",
    [{"balance": "sample", "mix": "mixup"}, {"balance": "weight", "mixed_precision": "bf16"}],
    ids=str,
)
def test_options_train_on_several_labels_too(
    tagged: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    report = train(tagged, tmp_path / "run", replace(TINY, **settings))  # type: ignore[arg-type]
    assert report["val"]["loss"] < report["val"]["base_rate_loss"]
