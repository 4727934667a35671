from __future__ import annotations

import torch
from torch import Tensor

from limelens.train.data.disturbances import coarsen
from limelens.train.data.draws import Draws


def roughness(images: Tensor) -> Tensor:
    return (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))


def test_an_image_of_fewer_pixels_keeps_its_colour_and_loses_its_detail() -> None:
    images = torch.rand((6, 3, 40, 32), generator=torch.Generator().manual_seed(0)) * 255
    coarse = images.clone()
    coarsen(coarse, Draws(range(6)), 1.0)
    assert (roughness(coarse) < 0.5 * roughness(images)).all()
    assert (coarse.mean(dim=(1, 2, 3)) - images.mean(dim=(1, 2, 3))).abs().max() < 5


def test_only_a_share_of_the_images_loses_pixels() -> None:
    images = torch.rand((40, 3, 16, 16), generator=torch.Generator().manual_seed(0)) * 255
    coarse = images.clone()
    coarsen(coarse, Draws(range(40)), 0.5)
    changed = (coarse != images).any(dim=(1, 2, 3))
    assert 10 < int(changed.sum()) < 30
