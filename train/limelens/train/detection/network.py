"""The network that finds faces, and the graph around it: pixels in, scores and boxes out.

Knows layers, and what a bundle for detection gives; knows neither data nor files.
"""

from __future__ import annotations

from math import log
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE: Final = 4
"""Pixels of the image for each cell of the map."""

NUM_BOXES: Final = 32
"""How many boxes a detector gives for each image."""
_MAX_LOG_SIDE: Final = 6.0
"""exp of more cells than any image has would overflow."""

_STAGES: Final = (24, 48, 80, 80)
"""Channels at a quarter, an eighth, a sixteenth and a thirty-second of the image's size."""
_BLOCKS: Final = (0, 2, 2, 2)
"""Residual blocks of each stage."""
_NECK: Final = 32
_RARE: Final = 0.01
"""What an untrained network takes for the share of cells that are centres."""


class FaceNetwork(nn.Module):
    """A small residual network with a feature pyramid; faces are points, as in CenterNet.

    Zhou, Wang and Krähenbühl, "Objects as Points" (2019), describe the map; Lin et al., "Feature
    Pyramid Networks" (2017), the way back from coarse to fine. Only plain 3x3 convolutions, which
    processors run at full speed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, 16, stride=2)
        stages, channels = [], 16
        for wide, num_blocks in zip(_STAGES, _BLOCKS, strict=True):
            blocks = [_Residual(wide) for _ in range(num_blocks)]
            stages.append(nn.Sequential(_convolution(channels, wide, stride=2), *blocks))
            channels = wide
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(nn.Conv2d(wide, _NECK, 1) for wide in _STAGES)
        self.head = _convolution(_NECK, _NECK)
        self.out = nn.Conv2d(_NECK, 5, 1)
        bias = torch.zeros(5)
        bias[0] = log(_RARE / (1 - _RARE))
        self.out.bias = nn.Parameter(bias)

    @property
    def num_parameters(self) -> int:
        """How many numbers training adjusts."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, images: Tensor) -> Tensor:
        """The map of an image.

        Args:
            images: `(N, 3, H, W)` RGB, 0 to 255, of any dtype; H and W are multiples of 32.

        Returns:
            `(N, 5, H / 4, W / 4)` float32: the logit that a face's centre is in the cell; from
            the cell to the centre, right and down, in cells; the logarithms of width and height
            in cells.
        """
        values = self.stem((images.float() - 127.5) / 64)
        features = []
        for stage in self.stages:
            values = stage(values)
            features.append(values)
        values = self.lateral[-1](features[-1])
        for lateral, finer in zip(
            reversed(self.lateral[:-1]), reversed(features[:-1]), strict=True
        ):
            coarse = functional.interpolate(values, scale_factor=2.0, mode="nearest")
            values = functional.relu(coarse + lateral(finer))
        found: Tensor = self.out(self.head(values))
        return found


class Detector(nn.Module):
    """Pixels in, scores and boxes out; boxes that repeat a face are left in."""

    def __init__(self, network: FaceNetwork) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The cells that are likelier centres than their neighbours, likeliest first.

        Args:
            images: `(N, H, W, 3)` uint8 RGB.

        Returns:
            `(N, K)` float32 scores, 0 to 1, and `(N, 4K)` float32: K times left, top, right and
            bottom in fractions of the image's width and height.
        """
        found = self.network(images.permute(0, 3, 1, 2))
        rows, columns = found.shape[2:]
        heat = torch.sigmoid(found[:, 0])
        highest = functional.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
        peaks = torch.where(heat == highest, heat, 0.0).flatten(1)
        scores, cells = torch.topk(peaks, NUM_BOXES, dim=1)
        values = found[:, 1:].flatten(2)
        chosen = torch.gather(values, 2, cells[:, None].expand(-1, 4, -1))
        x = (cells % columns).float() + chosen[:, 0]
        y = torch.div(cells, columns, rounding_mode="floor").float() + chosen[:, 1]
        half_wide, half_tall = (torch.exp(chosen[:, 2:].clamp(max=_MAX_LOG_SIDE)) / 2).unbind(dim=1)
        edges = (
            (x - half_wide) / columns, (y - half_tall) / rows,
            (x + half_wide) / columns, (y + half_tall) / rows,
        )  # fmt: skip
        return scores, torch.stack(edges, dim=2).flatten(1)


class _Residual(nn.Module):
    """Two convolutions that change what comes in a little."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, values: Tensor) -> Tensor:
        return functional.relu(values + self.second(self.first(values)))


def _convolution(channels: int, wide: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, wide, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(inplace=True),
    )
