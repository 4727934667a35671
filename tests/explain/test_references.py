"""Hidden segments that show images of other labels, and rows predicted in several fills."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.explain import InvalidArgumentError, check, explain
from limelens.explain.drawing.steps import perturbation_of
from limelens.explain.sampling.references import references_for

SIDE = 32
GREY = np.full((SIDE, SIDE, 3), 100, dtype=np.uint8)
FAST: dict[str, Any] = {"hide": "references", "segmentation": "grid", "num_segments": 16, "seed": 3}


def plain(*levels: int) -> NDArray[np.uint8]:
    """One image of each level of grey."""
    return np.stack([np.full((SIDE, SIDE, 3), level, dtype=np.uint8) for level in levels])


class Brightness:
    """The brighter the image's top left quarter, the likelier label 1; keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        self.seen.append(images.copy())
        level = images[:, : SIDE // 2, : SIDE // 2].mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - level, level], axis=1)


def test_hidden_segments_show_images_of_other_labels_equally_often() -> None:
    predict = Brightness()
    references = plain(10, 20, 30), np.array([1, 1, 0])  # grey is darker than half: label 0
    found = explain(GREY, predict, references=references, num_samples=320, **FAST)
    assert found.references is not None
    assert found.references[:, 0, 0, 0].tolist() == [10, 20]
    shown = np.concatenate(predict.seen[1:])[:320]
    levels, counts = np.unique(shown[..., 0], return_counts=True)
    assert levels.tolist() == [10, 20, 100]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)
    np.testing.assert_array_equal(perturbation_of(GREY, found).images(found.samples.visible), shown)


def test_references_come_with_the_model_and_are_resized() -> None:
    predict = Brightness()
    predict.references = plain(10, 20)[:, :7, :9], np.array([1, 1])  # type: ignore[attr-defined]
    found = explain(GREY, predict, num_samples=100, **FAST)
    assert found.references is not None
    assert found.references.shape == (2, SIDE, SIDE, 3)
    assert check(found, predict, GREY, num_random=2).hide == "references"
    by_mean = explain(GREY, predict, num_samples=100, **{**FAST, "hide": "mean"})
    assert by_mean.references is None
    assert check(by_mean, predict, GREY, num_random=2, hide="references").hide == "references"


def test_labels_from_a_probability_of_half_are_not_shown() -> None:
    labels = np.array([[True, False, True], [False, True, False], [False, False, True]])
    images = plain(1, 2, 3)
    probabilities = np.array([0.1, 0.6, 0.9])
    with pytest.raises(InvalidArgumentError, match="every reference has"):
        references_for(probabilities, (images[::2], labels[::2]), (SIDE, SIDE))
    # All have one of the two labels: those without the more probable one are left.
    chosen = references_for(probabilities, (images, labels), (SIDE, SIDE))
    assert chosen[:, 0, 0, 0].tolist() == [2]
    chosen = references_for(np.array([0.6, 0.1, 0.1]), (images, labels), (SIDE, SIDE))
    assert chosen[:, 0, 0, 0].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "none are known"),
        ({"references": 3}, "is no pair"),
        ({"references": (plain(1)[0], [0])}, r"expected \(M, H, W, 3\) uint8"),
        ({"references": (plain(1, 2), [0])}, "a label for each of the 2 images"),
        ({"references": (plain(1), np.eye(3, dtype=np.bool_)[1:2])}, "3 labels; predict has 2"),
        ({"references": (plain(1), [0])}, "every reference has the image's label, 0"),
        ({"hide": "mean", "num_fills": 2}, "hide='mean' is one fill"),
        ({"references": (plain(1), [1]), "compat": "lime"}, "'references' needs compat=None"),
        ({"hidden_share": 0.3, "sampling": "paired"}, "pairs hide half"),
        ({"hidden_share": 1.0}, "expected between 0 and 1"),
        ({"hide": "mean", "hidden_share": 0.3, "compat": "lime"}, "lime hides half"),
    ],
)
def test_unusable_references_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        explain(GREY, Brightness(), **{**FAST, **options})


@pytest.mark.parametrize("sampling", ["paired", "independent"])
@pytest.mark.parametrize("method", ["lime", "kernel_shap", "rise"])
@pytest.mark.parametrize("num_samples", [400, 403])
def test_the_surrogate_is_fitted_to_the_mean_over_the_fills_of_a_row(
    sampling: Any, method: Any, num_samples: int
) -> None:
    found = explain(
        GREY,
        Brightness(),
        references=(plain(*range(10, 42, 2)), np.ones(16, dtype=np.int64)),
        num_samples=num_samples,
        method=method,
        sampling=sampling,
        hidden_share=0.5,
        num_fills=4,
        **FAST,
    )
    samples, rows = found.samples, found.samples.by_row()
    assert found.num_samples == num_samples
    assert rows.visible.shape[0] in (num_samples // 4, num_samples // 4 + 1, num_samples // 4 + 2)
    assert rows.weights.sum() == pytest.approx(samples.weights.sum())
    together = 2 if samples.sampling == "paired" else 1
    for row in (0, 1, 6, 7, 40):
        first = row // together * together * 4 + row % together
        same = slice(first, first + 4 * together, together)
        assert (samples.visible[same] == rows.visible[row]).all()
        hides = not rows.visible[row, [0, 1, 4, 5]].all()
        assert (np.ptp(samples.probabilities[same, 0]) > 0) == hides
        np.testing.assert_allclose(
            rows.probabilities[row], samples.probabilities[same].mean(axis=0), atol=1e-12
        )
    assert {one.segment for one in found.explanations[0].weights[:4]} == {0, 1, 4, 5}


def test_fewer_segments_are_hidden_at_a_time_by_references() -> None:
    references = plain(10, 20), np.array([1, 1])
    found = explain(GREY, Brightness(), references=references, num_samples=800, **FAST)
    assert found.sampling == "independent"
    assert found.samples.visible.mean() == pytest.approx(0.7, abs=0.03)
    half = explain(
        GREY, Brightness(), references=references, num_samples=800, hidden_share=0.5, **FAST
    )
    assert half.sampling == "paired"


def test_rounds_end_with_whole_rows() -> None:
    predict = Brightness()
    references = plain(10, 60, 200), np.ones(3, dtype=np.int64)
    options: dict[str, Any] = {**FAST, "references": references, "batch_size": 10, "num_fills": 3}
    whole = explain(GREY, predict, num_samples=900, **options)
    short = explain(GREY, predict, stability=1e-6, max_samples=900, **options)
    assert short.num_samples < 900
    assert short.num_samples % 30 == 0
    np.testing.assert_array_equal(short.samples.visible, whole.samples.visible[: short.num_samples])


def test_standard_errors_cover_rows_and_fills(
    photo: NDArray[np.uint8], linear_softmax: Any
) -> None:
    predict = linear_softmax((96, 80))
    rng = np.random.default_rng(8)
    images = rng.integers(0, 256, (16, 96, 80, 3), dtype=np.uint8) // 2 + photo // 2
    label = int(predict(photo[np.newaxis])[0].argmax())
    how: dict[str, Any] = {
        "hide": "references",
        "references": (images, np.full(16, (label + 1) % 6)),
        "labels": [label],
        "num_samples": 480,
        "segmentation": "grid",
        "num_segments": 12,
    }
    runs = [explain(photo, predict, seed=seed, **how) for seed in range(16)]
    found = [sorted(run.for_label(label).weights, key=lambda one: one.segment) for run in runs]
    spread = np.sqrt(np.var([[w.weight for w in one] for one in found], axis=0, ddof=1).mean())
    stated = np.sqrt(np.mean([[w.std_error**2 for w in one] for one in found]))
    assert 0.8 < stated / spread < 1.3
