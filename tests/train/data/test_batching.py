from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from limelens.serve.bundle import Task
from limelens.serve.errors import InvalidImageError
from limelens.serve.image import ResizeMode, ResizeRule, read_fitted
from limelens.train.data.augmentation import Augmentation
from limelens.train.data.batching import TrainingBatches, ordered_batches
from limelens.train.data.decoded import DecodedImages
from limelens.train.data.examples import DataError, Example
from limelens.train.data.sampling import EpochBatches

RULE = ResizeRule(24, 16)


def paths(divided: Path) -> list[Path]:
    """Five images."""
    return sorted((divided / "train" / "red").iterdir())[:5]


@pytest.mark.parametrize("mode", ResizeMode)
@pytest.mark.parametrize("in_memory_bytes", [0, 2**30], ids=["file", "memory"])
def test_decoded_images_are_what_serving_sees(
    divided: Path, tmp_path: Path, mode: ResizeMode, in_memory_bytes: int
) -> None:
    rule = ResizeRule(24, 16, mode)
    images = DecodedImages(paths(divided), rule, 2, tmp_path, in_memory_bytes)
    pixels = images.pixels([3, 1, 3])
    for seen, index in zip(pixels, (3, 1, 3), strict=True):
        expected = read_fitted(paths(divided)[index].read_bytes(), rule)
        assert np.array_equal(seen.transpose(1, 2, 0), expected)
    stretched = mode is ResizeMode.STRETCH
    assert images.shapes([3])[0] == pytest.approx(40 / 48 if stretched else 16 / 24)
    # A file without a name leaves nothing behind.
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_new_run_is_made_for_images_too_large_for_memory(
    divided: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "new"
    images = DecodedImages(paths(divided), RULE, folder=folder, in_memory_bytes=0)
    assert images.pixels([0]).shape == (1, 3, RULE.height, RULE.width)
    assert folder.is_dir()


def test_an_image_is_decoded_once_and_given_as_a_copy(divided: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(paths(divided)[0].read_bytes())
    images = DecodedImages([path], RULE)
    first = images.pixels([0])
    path.unlink()
    again = images.pixels([0])
    assert np.array_equal(first, again)
    again[:] = 0
    assert np.array_equal(first, images.pixels([0]))


def test_a_broken_image_is_an_error_as_before(tmp_path: Path) -> None:
    broken = tmp_path / "image.png"
    broken.write_bytes(b"no image")
    with pytest.raises(InvalidImageError):
        DecodedImages([broken], RULE).pixels([0])
    with pytest.raises(FileNotFoundError):
        DecodedImages([tmp_path / "missing.png"], RULE).pixels([0])


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="disks are not reserved here")
def test_a_disk_without_space_is_reported(divided: Path, tmp_path: Path) -> None:
    size = os.statvfs(tmp_path).f_frsize * os.statvfs(tmp_path).f_blocks
    enough = paths(divided)[:1] * math.ceil(4 * size / (8192 * 8192 * 3))
    with pytest.raises(DataError, match=r"GiB in .*; free some"):
        DecodedImages(enough, ResizeRule(8192, 8192), folder=tmp_path)


def test_ordered_batches_hold_every_image_once(divided: Path) -> None:
    images = DecodedImages(paths(divided), RULE)
    batches = list(ordered_batches(images, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert np.array_equal(torch.cat(batches).numpy(), images.pixels(range(5)))


def training_batches(divided: Path, order: EpochBatches) -> TrainingBatches:
    """Batches of five images with targets 0 to 4."""
    examples = [Example(path, (index,)) for index, path in enumerate(paths(divided))]
    augmentation = Augmentation("strong", ResizeRule(32, 32))
    return TrainingBatches(
        examples, 5, Task.MULTICLASS, augmentation, order, torch.device("cpu"), 2
    )


def test_an_epoch_is_the_same_in_any_run_and_by_several_processes(divided: Path) -> None:
    order = EpochBatches(np.ones(5), 4, seed=3)
    batches = training_batches(divided, order)
    order.epoch = 1
    ((images, targets),) = batches
    order.epoch = 0
    ((others, _),) = batches
    assert not torch.equal(images, others)
    assert images.shape == (4, 3, 32, 32)
    for rank in range(2):
        share = EpochBatches(np.ones(5), 4, 3, rank, 2)
        share.epoch = 1
        ((own, own_targets),) = training_batches(divided, share)
        assert torch.equal(own_targets, targets[rank::2])
        assert (own.int() - images[rank::2].int()).abs().max() <= 1
