from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.image import ResizeMode, ResizeRule, fit
from limelens.train.config import PRESETS
from limelens.train.data.augmentation import Augmentation
from limelens.train.data.colour import Jitter, jittered
from limelens.train.data.decoded import DecodedImages
from limelens.train.data.draws import Draws
from limelens.train.data.geometry import free_crops

CPU = torch.device("cpu")


def variations(
    augmentation: Augmentation, path: Path, seeds: list[int] | range
) -> NDArray[np.uint8]:
    """An image's variations, `(N, H, W, 3)`."""
    images = DecodedImages([path], augmentation.stored)
    indices = [0] * len(seeds)
    pixels = images.pixels(indices)
    batch = augmentation.prepared(pixels, images.shapes(indices), list(seeds))
    return augmentation(batch, CPU).permute(0, 2, 3, 1).numpy()


def saved(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """An image file of these pixels."""
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 300, 3), (64, 48, 3)])
def test_every_preset_gives_pixels_of_the_inputs_size(
    tmp_path: Path, preset: str, shape: tuple[int, ...]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = saved(tmp_path / "image.png", pixels)
    varied = variations(Augmentation(preset, ResizeRule(40, 56)), path, range(20))
    assert varied.dtype == np.uint8
    assert varied.shape == (20, 40, 56, 3)


@pytest.mark.parametrize("preset", ["light", "standard", "strong"])
def test_an_image_varies_by_its_seed_and_not_by_its_batch(tmp_path: Path, preset: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    augmentation = Augmentation(preset, ResizeRule(32, 32))
    path = saved(tmp_path / "image.png", pixels)
    together = variations(augmentation, path, range(12))
    alone = np.concatenate([variations(augmentation, path, [seed]) for seed in range(12)])
    assert np.abs(together.astype(int) - alone).max() <= 1
    assert len(np.unique(together.reshape(12, -1), axis=0)) == 12


def test_no_augmentation_gives_what_serving_sees(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    rule = ResizeRule(24, 32, ResizeMode.PAD)
    path = saved(tmp_path / "image.png", pixels)
    seen = variations(Augmentation("none", rule), path, [3])[0]
    assert np.array_equal(seen, fit(pixels, rule).pixels)


@pytest.mark.parametrize("mode", list(ResizeMode))
def test_training_fits_images_as_serving_does(tmp_path: Path, mode: ResizeMode) -> None:
    # White, 30 high and 120 wide: padding adds grey above and below, cutting and stretching do not.
    pixels = np.full((30, 120, 3), 255, dtype=np.uint8)
    rule = ResizeRule(40, 40, mode)
    served = (fit(pixels, rule).pixels < 200).mean()
    path = saved(tmp_path / "image.png", pixels)
    trained = (variations(Augmentation("light", rule), path, range(20)) < 200).mean()
    assert served == pytest.approx(0.75 if mode is ResizeMode.PAD else 0.0)
    assert trained == pytest.approx(served, abs=0.1)


@pytest.mark.parametrize("preset", ["light", "standard"])
def test_a_crop_of_a_tall_image_shows_its_ends_too(tmp_path: Path, preset: str) -> None:
    # The upper and the lower quarter are white, as a bottle's ends would be.
    pixels = np.zeros((300, 100, 3), dtype=np.uint8)
    pixels[:75] = pixels[225:] = 255
    path = saved(tmp_path / "image.png", pixels)
    varied = variations(Augmentation(preset, ResizeRule(60, 60)), path, range(60))
    assert (varied > 120).mean() == pytest.approx(0.5, abs=0.1)


def test_free_crops_have_any_shape_and_lie_in_the_image() -> None:
    shapes = np.repeat([0.2, 0.8, 1.0, 1.25, 5.0], 100)
    crops = free_crops(Draws(range(500)), shapes, least=0.5, ratio=1.5)
    assert (np.abs(crops.centres) + crops.halves <= 1 + 1e-9).all()
    ratios = crops.halves[:, 0] / crops.halves[:, 1] * shapes
    assert (ratios > 1 / 1.5 - 1e-9).all()
    assert (ratios < 1.5 + 1e-9).all()
    # Of five times as long as wide no crop of a half fits: the middle third is left.
    assert ratios[:100] == pytest.approx(1 / 1.5)
    assert ratios[400:] == pytest.approx(1.5)
    assert crops.halves[100:400].prod(1).min() >= 0.5
    for start in (100, 200, 300):
        assert ratios[start : start + 100].std() > 0.1


def test_a_smaller_crop_stores_more_pixels_up_to_twice_the_input() -> None:
    rule = ResizeRule(60, 100)
    sides = [Augmentation("light", rule, least).stored.width for least in (1.0, 0.5, 0.25, 0.1)]
    assert sides == [100, 141, 200, 200]
    assert Augmentation("none", rule, 0.1).stored == rule


def test_each_image_of_a_batch_gets_colours_of_its_own() -> None:
    images = torch.full((64, 3, 8, 8), 100.0)
    images[:, 0] = 140
    jitter = Jitter(0.2, 0.0, 0.0)
    brighter = jittered(images, Draws(range(64)), jitter)
    factors = (brighter / images).flatten(1)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), atol=1e-5)
    assert 0.8 <= factors.min() < 0.85
    assert 1.15 < factors.max() <= 1.2


@pytest.mark.parametrize(
    "jitter", [Jitter(0, 0.5, 0), Jitter(0, 0, 0.5), Jitter(0, 0, 0, hue=0.1)], ids=str
)
def test_contrast_saturation_and_hue_keep_the_mean_brightness(jitter: Jitter) -> None:
    images = torch.rand((16, 3, 8, 8), generator=torch.Generator().manual_seed(0)) * 255
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    changed = jittered(images, Draws(range(16)), jitter)
    assert torch.allclose(
        (changed * luma).sum(1).mean((1, 2)), (images * luma).sum(1).mean((1, 2)), atol=0.1
    )
    assert (changed - images).abs().flatten(1).amax(1).median() > 5


def test_grey_images_have_no_colours() -> None:
    images = torch.rand((200, 3, 4, 4), generator=torch.Generator().manual_seed(0)) * 255
    grey = jittered(images, Draws(range(200)), Jitter(0.1, 0.1, 0.1, 0.05, grey=0.25))
    share = ((grey.amax(1) - grey.amin(1)).amax((1, 2)) < 0.01).float().mean()
    assert float(share) == pytest.approx(0.25, abs=0.1)
