"""The fills of hidden segments, above all the shuffled image."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.explain import explain

HIDES: tuple[Any, ...] = ("mean", "blur", "shuffle", (1, 2, 3))


def seen_by_the_model(image: NDArray[np.uint8], **options: Any) -> NDArray[np.uint8]:
    shown: list[NDArray[np.uint8]] = []

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        shown.extend(images)
        return np.ones((len(images), 1), dtype=np.float32)

    how: dict[str, Any] = {"segmentation": "grid", "num_segments": 12, "num_samples": 80}
    explain(image, predict, **{**how, "seed": 3, **options})
    return np.stack(shown)


@pytest.mark.parametrize("hide", HIDES)
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_visible_segments_show_the_image_in_any_chunks(
    photo: NDArray[np.uint8], hide: Any, batch_size: int
) -> None:
    whole = seen_by_the_model(photo, hide=hide, batch_size=80)
    chunks = seen_by_the_model(photo, hide=hide, batch_size=batch_size)
    np.testing.assert_array_equal(whole, chunks)
    np.testing.assert_array_equal(whole[0], photo)
    shown = (whole[1:] == photo).all(axis=3).mean(axis=(1, 2))
    assert 0.35 < shown.mean() < 0.65


def test_every_sample_is_filled_with_other_tiles_and_pairs_with_the_same(
    photo: NDArray[np.uint8],
) -> None:
    segments = np.zeros(photo.shape[:2], dtype=np.int64)
    segments[:, 40:] = 1
    seen = seen_by_the_model(
        photo,
        hide="shuffle",
        segmentation=None,
        num_segments=None,
        segments=segments,
        sampling="paired",
        num_samples=40,
    )
    left, right = seen[:, :, :40], seen[:, :, 40:]
    hidden = [left[i] if (left[i] != photo[:, :40]).any() else None for i in range(0, len(seen))]
    fills = [one for one in hidden if one is not None]
    assert len(fills) > 10
    assert len({one.tobytes() for one in fills}) > len(fills) / 2
    for i in range(2, len(seen), 2):
        whole = np.where(
            (seen[i] != photo), seen[i], seen[i + 1]
        )  # each shows what the other hides
        assert (whole != photo).any(axis=2).mean() > 0.9
    assert right.shape == left.shape


def test_shuffled_tiles_have_the_images_colours_and_none_of_its_places() -> None:
    image = np.zeros((72, 72, 3), dtype=np.uint8)
    image[:36] = (200, 40, 40)  # half of it red, half of it blue
    image[36:] = (40, 40, 200)
    everything = np.zeros((72, 72), dtype=np.int64)
    seen = seen_by_the_model(
        image,
        hide="shuffle",
        segmentation=None,
        num_segments=None,
        segments=everything,
        num_samples=200,
    )
    hidden = seen[(seen != image).any(axis=(1, 2, 3))]
    assert len(hidden) > 50
    np.testing.assert_allclose(hidden.mean(axis=(0, 1, 2)), image.mean(axis=(0, 1)), atol=4)
    np.testing.assert_allclose(
        hidden[:, :36].mean(axis=(0, 1, 2)), hidden[:, 36:].mean(axis=(0, 1, 2)), atol=6
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (17, 19), (64, 301)])
def test_images_of_any_size_are_shuffled(size: tuple[int, int]) -> None:
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert seen_by_the_model(image, hide="shuffle").shape[1:] == image.shape


def test_a_smaller_run_uses_the_first_images_of_a_larger_one(photo: NDArray[np.uint8]) -> None:
    large = seen_by_the_model(photo, hide="shuffle", num_samples=200)
    small = seen_by_the_model(photo, hide="shuffle", num_samples=90)
    np.testing.assert_array_equal(large[:90], small[:90])


def test_shuffling_finds_a_patch_that_its_mean_colour_does_not_hide() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 140, (64, 64, 3), dtype=np.uint8)
    image[16:32, 32:48] = 250

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        white = (images[:, 16:32, 32:48].min(axis=3) > 240).mean(axis=(1, 2))
        return np.stack([1 - white, white], axis=1).astype(np.float32)

    ids = np.arange(64) // 16
    how: dict[str, Any] = {
        "segments": 4 * ids[:, np.newaxis] + ids,
        "labels": [1],
        "seed": 0,
    }
    by_mean = explain(image, predict, hide="mean", **how).for_label(1).weights[0]
    shuffled = explain(image, predict, hide="shuffle", **how).for_label(1).weights[0]
    assert abs(by_mean.weight) < 1e-9
    assert shuffled.segment == 6
    assert shuffled.weight > 0.8


def test_standard_errors_cover_that_every_seed_shuffles_other_tiles(
    photo: NDArray[np.uint8], linear_softmax: Any
) -> None:
    predict = linear_softmax((96, 80))
    runs = [
        explain(photo, predict, hide="shuffle", labels=[0], num_samples=400, seed=seed)
        for seed in range(20)
    ]
    found = [sorted(run.for_label(0).weights, key=lambda one: one.segment) for run in runs]
    spread = np.sqrt(np.var([[w.weight for w in one] for one in found], axis=0, ddof=1).mean())
    stated = np.sqrt(np.mean([[w.std_error**2 for w in one] for one in found]))
    assert 0.85 < stated / spread < 1.2
