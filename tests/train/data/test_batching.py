from __future__ import annotations

from pathlib import Path

import pytest
import torch

from limelens.serve.bundle import Task
from limelens.serve.image import ResizeMode, ResizeRule, read_image
from limelens.train.config import PRESETS
from limelens.train.data.augmentation import Transform, for_training
from limelens.train.data.batching import Examples
from limelens.train.data.examples import Example


@pytest.mark.parametrize("mode", ResizeMode)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_file_and_its_pixels_give_the_same_input(
    divided: Path, preset: str, mode: ResizeMode
) -> None:
    encoded = (divided / "train" / "red" / "000.png").read_bytes()
    transform = for_training(preset, ResizeRule(24, 16, mode))
    torch.manual_seed(3)
    from_file = transform.read(encoded)
    torch.manual_seed(3)
    assert torch.equal(from_file, transform(read_image(encoded)))


def test_a_draw_gives_the_same_image_after_any_other_draw(divided: Path) -> None:
    paths = sorted((divided / "train" / "red").iterdir())[:3]
    examples = Examples(
        [Example(path, (0,)) for path in paths],
        for_training("strong", ResizeRule(24, 24)),
        1,
        Task.MULTICLASS,
    )
    first, _ = examples[1, 7]
    torch.manual_seed(99)
    examples[0, 5]
    again, _ = examples[1, 7]
    assert torch.equal(first, again)
    assert not torch.equal(first, examples[1, 8][0])


def test_evaluation_keeps_the_size_of_its_rule(divided: Path) -> None:
    path = divided / "train" / "red" / "000.png"
    examples = Examples([Example(path, (0,))], Transform(ResizeRule(24, 16)), 1, Task.MULTICLASS)
    assert examples[0][0].shape == (3, 24, 16)
