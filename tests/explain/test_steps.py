"""The sheet that shows how an explanation came about."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limelens.explain import InvalidArgumentError, contrast, explain, steps
from limelens.explain.drawing.colours import signs
from limelens.explain.drawing.steps import perturbation_of

pytest.importorskip("skimage")


def scene(height: int = 60, width: int = 80) -> np.ndarray:
    """Noise, with a red corner at the top left."""
    pixels = np.random.default_rng(3).integers(60, 120, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = 255, 0, 0
    return pixels


class Redness:
    """How red and how blue images are, and which it was shown, in order."""

    def __init__(self) -> None:
        self.shown: list[np.ndarray] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.shown.extend(images)
        means = images.reshape(len(images), -1, 3).mean(axis=1) / 255
        return np.stack([means[:, 0], means[:, 2]], axis=1)


@pytest.mark.parametrize("method", ["lime", "kernel_shap", "occlusion", "rise"])
@pytest.mark.parametrize("hide", ["mean", "blur", "shuffle", (0, 0, 0)])
def test_the_drawn_samples_are_those_that_the_model_got(method: Any, hide: Any) -> None:
    model = Redness()
    found = explain(
        scene(), model, method=method, hide=hide, segmentation="grid", num_segments=12,
        num_samples=100, seed=5,
    )  # fmt: skip
    made = perturbation_of(scene(), found)
    for row, shown in enumerate(model.shown[: found.num_samples]):
        assert np.array_equal(made.images(found.samples.visible[[row]], row)[0], shown)


@pytest.mark.parametrize("method", ["lime", "kernel_shap", "occlusion", "rise"])
def test_every_method_has_a_sheet(method: Any) -> None:
    found = explain(scene(), Redness(), method=method, num_segments=12, num_samples=100, seed=5)
    sheet = steps(scene(), found, label_name="red")
    assert sheet.dtype == np.uint8
    assert sheet.shape[1:] == (1360, 3)
    assert 900 < sheet.shape[0] < 2400
    # The red corner speaks for red: the first bar is green.
    assert (sheet == signs("green-red")[0]).all(axis=2).sum() > 1000


@pytest.mark.parametrize(
    ("height", "width", "num_segments"), [(300, 20, 8), (20, 300, 8), (64, 64, 400), (9, 9, 2)]
)
def test_odd_images_have_a_sheet(height: int, width: int, num_segments: int) -> None:
    pixels = scene(height, width)
    found = explain(
        pixels, Redness(), segmentation="grid", num_segments=num_segments, num_samples=30, seed=1
    )
    assert steps(pixels, found).shape[1:] == (1360, 3)


def test_a_contrast_and_names_of_any_length_are_drawn() -> None:
    found = explain(scene(), Redness(), num_segments=12, num_samples=100, seed=5)
    sheet = steps(
        scene(),
        found,
        contrast(found, 0, 1),
        label_name="a name that is far too long to be written on one line " * 4,
        palette="blue-orange",
    )
    assert sheet.shape[1] == 1360
    # What is too long ends within the margin.
    assert (sheet[:, -20:] == 255).all()


def test_own_segments_keep_their_numbers_and_hidden_ids_have_none() -> None:
    own = np.full((60, 80), 700, np.uint16)
    own[:30, :40] = 7
    own[:, 70:] = 65535
    found = explain(scene(), Redness(), segments=own, num_samples=20, seed=1)
    assert steps(scene(), found).shape[1] == 1360


def test_another_image_is_refused() -> None:
    found = explain(scene(), Redness(), num_segments=12, num_samples=50, seed=5)
    with pytest.raises(InvalidArgumentError, match="image is 10x10; the explanation is of 60x80"):
        steps(scene(10, 10), found)


def test_a_face_with_a_mask_has_a_sheet() -> None:
    folder = os.environ.get("LIMELENS_DATA")
    if not folder:
        pytest.skip("LIMELENS_DATA is not set; it names the folder that holds facemask")
    from limelens.serve import load_bundle
    from limelens.serve.image import fit, read_image

    bundle = load_bundle(Path(__file__).parents[2] / "models" / "facemask" / "2", "cpu")
    path = min((Path(folder) / "facemask" / "test" / "with_mask").iterdir())
    pixels = fit(read_image(path.read_bytes()), bundle.metadata.resize).pixels
    found = explain(pixels, bundle.predict, hide="blur", num_samples=200, seed=1)
    sheet = steps(pixels, found, label_name=bundle.labels[found.explanations[0].label])
    assert Image.fromarray(sheet).size[0] == 1360
