"""Networks by name, each split into a feature extractor and a last linear layer.

It knows torchvision's classifiers, the articles' small networks and two residual ones. Networks
take uint8 pixels and normalise them, so that callers cannot forget it. It knows neither data nor
training.
"""

from __future__ import annotations

import difflib
from itertools import pairwise
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torchvision import models

from limelens.serve.errors import LimelensError
from limelens.train.residual import residual_network

BATCH_NORM_MOMENTUM: Final = 0.1
"""torchvision's MobileNetV3 has 0.01, too slow for the statistics of a short run."""
DEFAULT_SIDE: Final = 112
"""Trains from scratch in minutes; networks that need larger inputs have their own."""
_OWN_SIDES: Final = {"cnn3": 256, "cnn4": 150, "resnet_tiny": 128, "resnet_slim": 128}
# ImageNet's, so that pretrained weights fit.
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


class ArchitectureError(LimelensError):
    """The architecture is unknown or cannot be used, or its weights cannot be downloaded."""


class Classifier(nn.Module):
    """Computes an embedding from pixels, and logits from the embedding.

    Args:
        backbone: `(N, 3, H, W)` normalised float32 to an embedding `(N, D)`.
        head: The last layer, `(N, D)` to logits `(N, C)`.
        dropout: Share of the embedding that training drops before the last layer.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = head
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1) * 255, persistent=False)

    def embed(self, images: Tensor) -> Tensor:
        """The features of `(N, 3, H, W)` uint8 pixels, `(N, D)` float32."""
        mean, std = cast(Tensor, self.mean), cast(Tensor, self.std)
        return cast(Tensor, self.backbone((images.float() - mean) / std))

    def forward(self, images: Tensor) -> Tensor:
        """The logits of `(N, 3, H, W)` uint8 pixels, `(N, C)` float32."""
        return cast(Tensor, self.head(self.dropout(self.embed(images))))

    @property
    def num_parameters(self) -> int:
        """The number of parameters of the whole network."""
        return sum(parameter.numel() for parameter in self.parameters())


def architectures() -> list[str]:
    """All names that `build` accepts."""
    return sorted([*_OWN, *models.list_models(module=models)])


def check_architecture(name: str) -> None:
    """Refuses a name that `build` does not accept; the error suggests similar ones.

    Raises:
        ArchitectureError: The name is unknown.
    """
    names = architectures()
    if name not in names:
        similar = difflib.get_close_matches(name, names)
        one_of = "one of " if len(similar) > 1 else ""
        meant = f"did you mean {one_of}{', '.join(similar)}?"
        expected = f"expected one of {', '.join(names)}"
        raise ArchitectureError(f"no architecture {name!r}; {meant if similar else expected}")


def build(
    name: str,
    num_labels: int,
    *,
    pretrained: bool = False,
    input_size: tuple[int, int],
    dropout: float = 0.0,
) -> Classifier:
    """A network with a fresh last layer, and with dropout before it in addition to its own.

    Raises:
        ArchitectureError: The name is unknown, the network has no last linear layer or does not
            accept the input size, or the weights cannot be downloaded.
    """
    check_architecture(name)
    network: nn.Module
    if name in _OWN:
        if pretrained:
            raise ArchitectureError(
                f"{name} has no pretrained weights; train it without (no --pretrained)"
            )
        network = _OWN[name](num_labels, *input_size)
    else:
        network = _torchvision(name, pretrained)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    classifier = _split(name, network, num_labels, dropout)
    _check_forward(name, classifier, input_size)
    return classifier


def default_input_size(name: str) -> int:
    """The default side of the input in pixels.

    112 trains from scratch in minutes; networks that need larger inputs get them.
    """
    if name in _OWN_SIDES:
        return _OWN_SIDES[name]
    if name not in models.list_models(module=models):
        return DEFAULT_SIDE
    needed: tuple[int, int] = models.get_model_weights(name).DEFAULT.meta["min_size"]
    return max(DEFAULT_SIDE, *needed)


def _cnn3(num_labels: int, height: int, width: int) -> nn.Sequential:
    """The face-mask article's network, for at least 8x8 pixels."""
    return nn.Sequential(
        *_convolutions(16, 32, 64),
        nn.Flatten(),
        nn.Linear(64 * (height // 8) * (width // 8), 512),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(512, num_labels),
    )


def _cnn4(num_labels: int, height: int, width: int) -> nn.Sequential:
    """The cats-and-dogs article's network, for at least 16x16 pixels."""
    return nn.Sequential(
        *_convolutions(32, 64, 128, 128),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(128 * (height // 16) * (width // 16), 512),
        nn.ReLU(),
        nn.Linear(512, num_labels),
    )


def _convolutions(*filters: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, *filters)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return layers


def _resnet_tiny(num_labels: int, _height: int, _width: int) -> nn.Sequential:
    return residual_network(num_labels, 16, (16, 32, 64, 160), (1, 2, 2, 2))


def _resnet_slim(num_labels: int, _height: int, _width: int) -> nn.Sequential:
    return residual_network(num_labels, 32, (32, 64, 128, 256), (1, 2, 2, 1))


_OWN: Final = {
    "cnn3": _cnn3,
    "cnn4": _cnn4,
    "resnet_tiny": _resnet_tiny,
    "resnet_slim": _resnet_slim,
}


def _torchvision(name: str, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if name in ("googlenet", "inception_v3") and not pretrained:
        # In training, their auxiliary heads would return outputs beside the logits.
        options |= {"aux_logits": False, "init_weights": True}
    try:
        return cast(nn.Module, models.get_model(name, **options))
    except OSError as error:
        raise ArchitectureError(
            f"the pretrained weights of {name} cannot be downloaded ({error}); "
            "train from scratch, or put the file into torch's hub folder"
        ) from error


def _check_forward(name: str, classifier: Classifier, input_size: tuple[int, int]) -> None:
    """Classifies one black image, so that a wrong size fails here and not in the first epoch."""
    classifier.eval()
    try:
        with torch.inference_mode():
            classifier(torch.zeros((1, 3, *input_size), dtype=torch.uint8))
    # The kind of error depends on the layer.
    except Exception as error:
        height, width = input_size
        raise ArchitectureError(
            f"{name} cannot take images of {height}x{width} ({error}); "
            f"{default_input_size(name)} is its default"
        ) from error
    classifier.train()


def _split(name: str, network: nn.Module, num_labels: int, dropout: float) -> Classifier:
    """Replaces the last linear layer by a fresh one."""
    layers = [
        (key, module)
        for key, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    key, last = layers[-1] if layers else ("", None)
    if not isinstance(last, nn.Linear):
        raise ArchitectureError(f"{name} has no last linear layer and is not supported")
    parent, _, child = key.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    head = nn.Linear(last.in_features, num_labels)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return Classifier(network, head, dropout)
