from __future__ import annotations

import pytest
import torch
from torch import nn

from limelens.train.architectures import (
    ArchitectureError,
    architectures,
    build,
    default_input_size,
)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        "resnet18",
        "efficientnet_b0",
        "vit_b_32",
        "densenet121",
        "cnn3",
        "resnet_tiny",
    ],
)
def test_a_network_gives_logits_and_an_embedding(name: str) -> None:
    side = 224 if name.startswith("vit") else 64
    model = build(name, 3, input_size=(side, side)).eval()
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    embedding = model.embed(images)
    assert model(images).shape == (2, 3)
    assert torch.equal(model(images), model.head(embedding))
    assert embedding.shape == (2, model.head.in_features)


def test_cnn3_is_the_articles_network() -> None:
    model = build("cnn3", 2, input_size=(256, 256))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size) for c in convolutions] == [
        (16, (3, 3)), (32, (3, 3)), (64, (3, 3)),
    ]  # fmt: skip
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 3
    assert [m.p for m in model.backbone.modules() if isinstance(m, nn.Dropout)] == [0.2]
    assert model.head.in_features == 512


def test_batch_norm_statistics_follow_a_short_run() -> None:
    model = build("mobilenet_v3_small", 2, input_size=(64, 64))
    momenta = {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.1}


def test_an_unknown_name_is_refused_with_similar_ones() -> None:
    with pytest.raises(
        ArchitectureError, match=r"no architecture 'resnet17'; did you mean one of resnet18, "
    ):
        build("resnet17", 2, input_size=(64, 64))


def test_a_network_without_a_last_linear_layer_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="squeezenet1_0 has no last linear layer"):
        build("squeezenet1_0", 2, input_size=(64, 64))


def test_weights_that_cannot_be_downloaded_are_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # Nothing listens at this port, so the download fails as without a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ArchitectureError, match="pretrained weights of resnet18 cannot be"):
        build("resnet18", 2, pretrained=True, input_size=(64, 64))


def test_the_articles_networks_and_torchvisions_are_listed() -> None:
    assert {"cnn3", "resnet18", "resnet34", "resnet50", "mobilenet_v3_small"} <= {*architectures()}


def test_the_default_size_is_one_that_the_network_takes() -> None:
    assert default_input_size("mobilenet_v3_small") == 112
    assert default_input_size("cnn3") == 256
    assert default_input_size("vit_b_16") == 224


def test_a_size_that_does_not_fit_is_refused_before_training() -> None:
    with pytest.raises(ArchitectureError, match=r"vit_b_16 cannot take images of 96x96 .* 224 is"):
        build("vit_b_16", 2, input_size=(96, 96))
