"""The public behaviour of `explain`, in the corrected mode."""

import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.waiting import slow_by

from limelens.explain import (
    UNSEEN,
    Explanation,
    InvalidArgumentError,
    PredictionError,
    UnknownLabelError,
    contrast,
    explain,
    explain_progressively,
)

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
MakePredict = Callable[[tuple[int, int]], Predict]


def brightness_of(rows: slice, cols: slice) -> Predict:
    """A two-label model that looks at one region only."""

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen = images[:, rows, cols].astype(np.float32).mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - seen, seen], axis=1)

    return predict


def values(explanation: Explanation) -> list[Any]:
    return [
        (one.label, one.probability, one.intercept, one.score, one.stability, one.weights)
        for one in explanation.explanations
    ]


def threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("limelens-samples")}


@pytest.mark.parametrize("hide", ["mean", "blur", (0, 0, 0)])
@pytest.mark.parametrize("sampling", ["paired", "independent"])
def test_the_region_that_the_model_looks_at_is_found(hide: Any, sampling: Any) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
    image[16:32, 32:48] = rng.integers(180, 255, (16, 16, 3), dtype=np.uint8)
    ids = np.arange(64) // 16
    segments = 100 + 10 * ids[:, np.newaxis] + ids
    hide = (0, 0, 0) if hide == "mean" else hide  # the mean would leave its brightness as it is
    found = explain(
        image,
        brightness_of(slice(16, 32), slice(32, 48)),
        segments=segments,
        labels=[1],
        hide=hide,
        sampling=sampling,
        seed=1,
    )
    best, second = found.for_label(1).weights[:2]
    assert best.segment == 112
    assert best.weight > 10 * abs(second.weight)
    assert found.for_label(1).score > 0.99
    assert found.sampling == sampling


def test_callers_ids_are_reported_and_unseen_pixels_are_never_hidden() -> None:
    image = np.full((20, 20, 3), 200, dtype=np.uint8)
    segments = np.full((20, 20), -7)
    segments[:, 10:] = 70000
    segments[:5] = UNSEEN
    seen: list[bool] = []

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(bool((images[:, :5] == 200).all()))
        return np.stack([images.mean(axis=(1, 2, 3)), images[:, 9, 0, 0]], 1).astype(np.float32)

    found = explain(image, predict, segments=segments, num_samples=40, hide=(0, 0, 0), seed=0)
    assert {w.segment for w in found.explanations[0].weights} == {-7, 70000}
    assert found.num_segments == 2
    assert all(seen)
    np.testing.assert_array_equal(found.segments, segments)


def test_the_same_seed_gives_the_same_result_and_is_reported(
    photo: NDArray[np.uint8], linear_softmax: MakePredict
) -> None:
    predict = linear_softmax((96, 80))
    first = explain(photo, predict, num_samples=300)
    assert first.seed is not None
    again = explain(photo, predict, num_samples=300, seed=first.seed)
    other = explain(photo, predict, num_samples=300, seed=first.seed + 1)
    assert values(first) == values(again)
    assert values(first) != values(other)


def test_the_first_row_is_the_unperturbed_image(
    photo: NDArray[np.uint8], linear_softmax: MakePredict
) -> None:
    predict = linear_softmax((96, 80))
    found = explain(photo, predict, top_labels=6, num_samples=100)
    alone = predict(photo[np.newaxis])[0]
    assert [one.label for one in found.explanations] == np.argsort(-alone).tolist()
    for one in found.explanations:
        assert one.probability == pytest.approx(float(alone[one.label]), abs=1e-6)
    assert found.samples.visible[0].all()


@pytest.mark.parametrize("concurrency", [2, 5])
def test_concurrent_calls_give_the_answer_of_one_thread(
    photo: NDArray[np.uint8], linear_softmax: MakePredict, concurrency: int
) -> None:
    base = linear_softmax((96, 80))
    running, most = 0, 0
    lock = threading.Lock()

    class Concurrent:
        max_concurrency = concurrency

        def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            slow_by(0.002 * (1 + len(threading.current_thread().name) % 3))
            answer = base(images)
            with lock:
                running -= 1
            return answer

    one = explain(photo, base, num_samples=200, seed=4, batch_size=8)
    many = explain(photo, Concurrent(), num_samples=200, seed=4, batch_size=8)
    assert values(one) == values(many)
    assert 1 < most <= concurrency
    assert threads() == set()


@pytest.mark.parametrize("concurrency", [1, 3])
def test_errors_of_predict_come_through_and_leave_no_thread(
    photo: NDArray[np.uint8], concurrency: int
) -> None:
    class Refuses:
        max_concurrency = concurrency
        calls = 0

        def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            self.calls += 1
            if self.calls > 3:
                raise TimeoutError("the model is busy")
            return np.ones((len(images), 2), dtype=np.float32)

    predict = Refuses()
    with pytest.raises(TimeoutError, match="busy"):
        explain(photo, predict, num_samples=1000, batch_size=4)
    assert predict.calls < 4 + 2 * concurrency + 1
    assert threads() == set()


def test_progress_is_reported_and_may_stop_the_run(photo: NDArray[np.uint8]) -> None:
    reported: list[tuple[int, int]] = []
    predict = brightness_of(slice(0, 9), slice(0, 9))
    explain(
        photo, predict, num_samples=100, progress=lambda done, most: reported.append((done, most))
    )
    assert reported == [(32, 100), (64, 100), (96, 100), (100, 100)]

    def stop(done: int, _most: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain(photo, predict, num_samples=1000, progress=stop)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 600), (600, 1), (20000, 3), (2, 2), (9, 9), (33, 517), (8, 2000)]
)
@pytest.mark.parametrize("segmentation", ["slic", "quickshift", "felzenszwalb", "grid"])
def test_tiny_and_odd_shaped_images_are_explained(size: tuple[int, int], segmentation: Any) -> None:
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    predict = brightness_of(slice(None), slice(None))
    found = explain(image, predict, segmentation=segmentation, num_samples=64, hide=(0, 0, 0))
    assert found.segments.shape == size
    assert found.num_segments == np.unique(found.segments).size
    if size == (1, 1):
        assert any("single segment" in str(warning) for warning in found.warnings)
    else:
        assert found.num_segments > 1


def test_a_flat_grey_image_is_explained_with_a_warning() -> None:
    image = np.full((50, 50), 77, dtype=np.uint8)
    found = explain(image, brightness_of(slice(0, 9), slice(0, 9)), seed=0)
    assert any("nothing to explain" in str(warning) for warning in found.warnings)
    assert found.explanations[0].score == 0.0


@pytest.mark.parametrize("side", [64, 96, 224, 299, 700])
def test_the_number_of_segments_hardly_depends_on_resolution(side: int) -> None:
    from PIL import Image

    coarse = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    found = explain(image, brightness_of(slice(0, 9), slice(0, 9)), num_samples=2)
    assert 30 <= found.num_segments <= 60


def test_every_segment_is_hidden_at_times(photo: NDArray[np.uint8]) -> None:
    hidden = np.zeros(photo.shape[:2], dtype=np.bool_)

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        np.logical_or(hidden, (images == (1, 2, 3)).all(axis=3).any(axis=0), out=hidden)
        return np.ones((len(images), 1), dtype=np.float32)

    explain(photo, predict, num_samples=64, hide=(1, 2, 3))
    assert hidden.all()


def test_mean_colours_are_rounded(photo: NDArray[np.uint8]) -> None:
    image = photo[:8, :8]
    shown: list[NDArray[np.uint8]] = []

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        shown.extend(images)
        return np.ones((len(images), 1), dtype=np.float32)

    explain(image, predict, segments=np.zeros((8, 8), int), num_samples=2, sampling="paired")
    expected = np.rint(image.astype(np.float64).mean(axis=(0, 1)))
    np.testing.assert_array_equal(shown[1], np.broadcast_to(expected, image.shape))


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    image = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    predict = brightness_of(slice(0, 50), slice(0, 50))

    def peak(num_samples: int) -> int:
        tracemalloc.start()
        explain(image, predict, segmentation="grid", num_samples=num_samples, seed=0)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(64)
    few, many = peak(200), peak(2000)
    # the design, the probabilities and a few vectors of length N; an image is 76,800 bytes
    assert many - few < 1800 * 300


def test_rounds_get_better_and_the_last_is_what_explain_returns(
    photo: NDArray[np.uint8], linear_softmax: MakePredict
) -> None:
    predict = linear_softmax((96, 80))
    rounds = list(explain_progressively(photo, predict, num_samples=900, seed=2))
    sizes = [one.num_samples for one in rounds]
    assert len(rounds) > 3
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 900
    assert values(rounds[-1]) == values(explain(photo, predict, num_samples=900, seed=2))
    errors = [one.explanations[0].weights[0].std_error for one in rounds]
    assert errors[-1] < 0.7 * errors[0]


@pytest.mark.parametrize("batch_size", [None, 7, 10, 32, 64, 256])
@pytest.mark.parametrize("stability", [None, 0.8])
def test_rounds_use_the_same_batches_as_explain(
    photo: NDArray[np.uint8],
    linear_softmax: MakePredict,
    batch_size: int | None,
    stability: float | None,
) -> None:
    exact = linear_softmax((96, 80))

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        # As matrix products do, which round batches of other sizes differently, but visibly so.
        return np.stack([exact(image[np.newaxis])[0] for image in images]) + np.float32(
            1e-6 * len(images)
        )

    how: dict[str, Any] = {"num_samples": 900, "seed": 2, "batch_size": batch_size}
    if stability is not None:
        how |= {"stability": stability, "max_samples": 2000}
    found = explain(photo, predict, **how)
    *_, last = explain_progressively(photo, predict, **how)
    assert last.num_samples == found.num_samples
    assert values(last) == values(found)


def test_sampling_stops_once_stable(photo: NDArray[np.uint8], linear_softmax: MakePredict) -> None:
    predict = linear_softmax((96, 80))
    found = explain(photo, predict, stability=0.8, max_samples=4000, seed=2)
    assert found.num_samples < 4000
    assert found.explanations[0].stability >= 0.8
    again = explain(photo, predict, num_samples=found.num_samples, seed=2, sampling=found.sampling)
    assert values(found) == values(again)


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"feature_selection": "forward_selection", "num_features": 299},
        {"feature_selection": "lasso_path", "num_features": 20},
    ],
)
def test_a_check_can_stop_the_work_after_the_last_sample(choice: dict[str, Any]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    segments = np.arange(900).reshape(30, 30) // 3
    done = 0
    num_after = 0

    def reported(count: int, _most: int) -> None:
        nonlocal done
        done = count

    def check() -> None:
        nonlocal num_after
        num_after += done == 100
        if num_after == 4:
            raise TimeoutError("nobody waits any more")

    with pytest.raises(TimeoutError, match="nobody waits"):
        explain(
            image,
            brightness_of(slice(0, 9), slice(0, 9)),
            segments=segments,
            num_samples=100,
            progress=reported,
            check=check,
            **choice,
        )


def test_selecting_as_many_segments_as_exist_selects_all(
    photo: NDArray[np.uint8], linear_softmax: MakePredict
) -> None:
    predict = linear_softmax((96, 80))
    every = explain(photo, predict, top_labels=3, num_samples=300, seed=3)
    chosen = explain(
        photo,
        predict,
        top_labels=3,
        num_samples=300,
        seed=3,
        feature_selection="forward_selection",
        num_features=10_000,
    )
    assert values(every) == values(chosen)


def test_the_number_of_segments_can_be_bounded(photo: NDArray[np.uint8]) -> None:
    predict = brightness_of(slice(0, 9), slice(0, 9))
    with pytest.raises(
        InvalidArgumentError, match="20 segments; at most 19 are explained"
    ) as caught:
        explain(photo, predict, segmentation="grid", num_segments=20, max_segments=19)
    assert caught.value.argument == "max_segments"


def test_an_unknown_option_is_named_at_once(photo: NDArray[np.uint8]) -> None:
    predict = brightness_of(slice(0, 9), slice(0, 9))
    with pytest.raises(TypeError, match="'num_sample'"):
        explain_progressively(photo, predict, num_sample=9)  # type: ignore[call-arg]


def test_a_missed_target_is_reported_and_ties_are_named(
    photo: NDArray[np.uint8],
) -> None:
    noise = np.random.default_rng(0)

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return noise.random((len(images), 2)).astype(np.float32)

    found = explain(photo, predict, stability=0.99, max_samples=300, seed=2)
    assert found.num_samples == 300
    assert len(found.explanations[0].ties) > 5
    assert any("below the target 0.99" in str(w) and "tied" in str(w) for w in found.warnings)
    assert any("poorly" in str(warning) for warning in found.warnings)


def test_a_deadline_ends_sampling(photo: NDArray[np.uint8]) -> None:
    base = brightness_of(slice(0, 40), slice(0, 40))

    class Slow:
        max_concurrency = 2

        def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            slow_by(0.02)
            return base(images)

    found = explain(photo, Slow(), num_samples=100000, deadline_ms=400, seed=0)
    assert 32 <= found.num_samples < 5000
    assert found.samples.probabilities.shape[0] == found.num_samples
    assert any("deadline" in str(warning) for warning in found.warnings)
    *_, last = explain_progressively(photo, Slow(), num_samples=100000, deadline_ms=400, seed=0)
    assert last.num_samples < 5000


def test_a_deadline_between_rounds_is_reported_too(photo: NDArray[np.uint8]) -> None:
    predict = brightness_of(slice(0, 40), slice(0, 40))
    rounds = explain_progressively(photo, predict, num_samples=100000, deadline_ms=200, seed=0)
    first = next(rounds)
    slow_by(0.25)
    (second,) = rounds
    assert second.num_samples == first.num_samples
    assert not any("deadline" in str(warning) for warning in first.warnings)
    assert any("deadline" in str(warning) for warning in second.warnings)


def test_closing_the_iterator_stops_the_work(photo: NDArray[np.uint8]) -> None:
    calls = 0
    base = brightness_of(slice(0, 9), slice(0, 9))

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        return base(images)

    rounds = explain_progressively(photo, predict, num_samples=100000)
    next(rounds)
    rounds.close()  # type: ignore[attr-defined]
    assert calls < 20


def test_a_contrast_is_the_difference_of_two_labels(
    photo: NDArray[np.uint8], linear_softmax: MakePredict
) -> None:
    found = explain(photo, linear_softmax((96, 80)), labels=[2, 5], num_samples=400, seed=0)
    difference = contrast(found, 2, 5)
    left = {w.segment: w.weight for w in found.for_label(2).weights}
    right = {w.segment: w.weight for w in found.for_label(5).weights}
    for one in difference.weights:
        assert one.weight == pytest.approx(left[one.segment] - right[one.segment], abs=1e-10)
    assert difference.against == 5
    with pytest.raises(UnknownLabelError, match="labels 0 to 5"):
        contrast(found, 2, 6)


def test_few_samples_and_a_narrow_kernel_are_warned_of(
    photo: NDArray[np.uint8], linear_softmax: MakePredict
) -> None:
    predict = linear_softmax((96, 80))
    few = explain(photo, predict, num_samples=50, seed=0)
    assert any("samples are few" in str(warning) for warning in few.warnings)
    narrow = explain(photo, predict, distance="l2", seed=0)
    assert any("Raise kernel_width" in str(warning) for warning in narrow.warnings)
    assert explain(photo, predict, seed=0).warnings == ()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"labels": []}, "labels is empty"),
        ({"labels": [0], "top_labels": 1}, "give one of them"),
        ({"labels": [2]}, "labels names 2; predict has labels 0 to 1"),
        ({"labels": [-1]}, "expected at least 0"),
        ({"num_samples": 1}, "num_samples is 1; expected at least 2"),
        ({"num_samples": 10.5}, "expected an integer"),
        ({"segmentation": "watershed"}, "expected one of 'slic', 'quickshift'"),
        ({"segmentation_options": {"blur": 1}}, "'blur', which slic does not take"),
        ({"segmentation_options": {"compactness": "much"}}, "slic refused"),
        ({"segmentation": "quickshift", "num_segments": 9}, "steers slic and grid"),
        ({"segments": np.zeros((3, 3), int)}, r"segments has shape \(3, 3\)"),
        ({"segments": np.zeros((96, 80))}, "expected integers"),
        ({"segments": np.arange(96 * 80).reshape(96, 80)}, "7680 segments; at most 4096"),
        ({"segments": np.full((96, 80), UNSEEN)}, "at least one segment"),
        ({"segments": np.zeros((96, 80), int), "segmentation": "grid"}, "either the segments or"),
        ({"hide": "noise"}, "expected 'mean', 'blur', 'shuffle', 'references' or three"),
        ({"hide": (1, 2, 256)}, "0 to 255"),
        ({"kernel_width": 0.0}, "above 0"),
        ({"alpha": -1.0}, "above 0"),
        ({"distance": "hamming"}, "expected one of 'cosine'"),
        ({"sampling": "sobol"}, "expected one of 'auto'"),
        ({"feature_selection": "best"}, "expected one of 'none'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": np.random.RandomState(1)}, "only compat='lime' takes"),
        ({"compat": "shap"}, "expected None or 'lime'"),
        ({"compat": "lime", "sampling": "paired"}, "lime draws independent rows"),
        ({"compat": "lime", "hide": "blur"}, "'blur' needs compat=None"),
        ({"stability": 1.5}, "expected above 0 and at most 1"),
        ({"max_samples": 9}, "caps a stability target"),
        ({"deadline_ms": 0}, "expected above 0"),
        ({"batch_size": 0}, "expected at least 1"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    photo: NDArray[np.uint8], arguments: dict[str, Any], sentence: str
) -> None:
    predict = brightness_of(slice(0, 9), slice(0, 9))
    with pytest.raises(InvalidArgumentError, match=sentence) as caught:
        explain(photo, predict, **arguments)
    assert caught.value.argument in (*arguments, "segmentation_options", "num_segments")


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((8, 8, 3)), "float64; expected uint8"),
        (np.zeros((8, 8, 4), np.uint8), "alpha"),
        (np.zeros((1, 8, 8, 3), np.uint8), "one image at a time"),
        (np.zeros((0, 8, 3), np.uint8), "holds no pixels"),
        (np.zeros((8, 8, 1), np.uint8), r"image\[..., 0\]"),
    ],
)
def test_images_that_cannot_be_used_are_described(image: Any, sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        explain(image, brightness_of(slice(0, 9), slice(0, 9)))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda n: np.ones(n), r"returned shape \(32,\) for 32 images"),
        (lambda n: np.ones((n + 1, 2)), r"returned shape \(33, 2\) for 32"),
        (lambda n: np.full((n, 2), np.nan), "not finite for sample 0"),
        (lambda n: np.ones((n, 2 if n == 32 else 3)), "expected the same number"),
        (lambda n: np.full((n, 2), "cat"), "expected float32"),
    ],
)
def test_unusable_predictions_are_described(
    photo: NDArray[np.uint8], answer: Callable[[int], Any], sentence: str
) -> None:
    with pytest.raises(PredictionError, match=sentence):
        explain(photo, lambda images: answer(len(images)), num_samples=50)


def test_a_label_not_explained_is_a_key_error(photo: NDArray[np.uint8]) -> None:
    found = explain(photo, brightness_of(slice(0, 9), slice(0, 9)), labels=[1], num_samples=9)
    with pytest.raises(KeyError, match="Label 0 is not in this explanation, which explains 1"):
        found.for_label(0)


def test_importing_explain_loads_nothing_of_the_other_parts() -> None:
    code = (
        "import sys, limelens.explain; "
        "print([m for m in ('grpc', 'onnxruntime', 'torch', 'sklearn', 'lime', 'limelens.serve')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
