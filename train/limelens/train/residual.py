"""Small residual networks: few channels, plain 3x3 convolutions.

Networks for phones save multiplications by depthwise convolutions, which a CPU trains and runs
slowly for their number; at the same CPU time, plain convolutions do more. Knows layers, and
nothing of names, data or training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions beside a shortcut, as in ResNet-D (He et al. 2019, arXiv:1812.01187).

    A shortcut that shrinks its input averages first, so that no pixel is skipped.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, stride)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.relu = nn.ReLU(inplace=True)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.skip = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity(),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, features: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`, rounded up."""
        return cast(Tensor, self.relu(self.second(self.first(features)) + self.skip(features)))


def residual_network(
    num_labels: int, stem: int, widths: Sequence[int], depths: Sequence[int]
) -> nn.Sequential:
    """A network whose stages halve the resolution; the stem has quartered it before.

    Args:
        num_labels: Outputs of its last layer.
        stem: Channels of the two first convolutions.
        widths: Channels of each stage.
        depths: Blocks of each stage.
    """
    layers: list[nn.Module] = [_convolution(3, stem, 2), _convolution(stem, stem, 2)]
    channels = stem
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for number in range(depth):
            layers.append(Block(channels, width, 2 if stage and not number else 1))
            channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_labels)]
    network = nn.Sequential(*layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, Block):
            # A block begins as its shortcut (Goyal et al. 2017, arXiv:1706.02677).
            nn.init.zeros_(cast(nn.BatchNorm2d, module.second[1]).weight)
    return network


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
