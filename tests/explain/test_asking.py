"""How the model is called: chunks, threads, pairs, and models that make the images themselves."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.explain import UNSEEN, ExplainOptions, Settings, check, explain
from limelens.explain.sampling.design import draw
from limelens.explain.sampling.perturbation import perturbation
from limelens.explain.segmentation.cutting import segment
from limelens.explain.segmentation.segments import Segmentation
from limelens.explain.settings import Sampling

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
MakePredict = Callable[[tuple[int, int]], Predict]


def images_by_definition(
    photo: NDArray[np.uint8], cut: Segmentation, hidden: NDArray[np.uint8], row: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    shown = np.append(row, True)[cut.columns]
    return np.where(shown[..., np.newaxis], photo, hidden)


@pytest.fixture(scope="module")
def cut(photo: NDArray[np.uint8]) -> Segmentation:
    """A grid of 30 cells and a strip that is never hidden."""
    rows, cols = np.indices(photo.shape[:2])
    segments = np.where(cols < 70, rows // 16 * 5 + cols // 16, UNSEEN)
    return segment(photo, Settings(segments=segments))


@pytest.mark.parametrize("hide", ["mean", "shuffle"])
@pytest.mark.parametrize("sampling", ["paired", "independent"])
@pytest.mark.parametrize("batch_size", [1, 7, 8])
def test_every_image_is_the_one_its_row_describes(
    photo: NDArray[np.uint8],
    cut: Segmentation,
    hide: Any,
    sampling: Sampling,
    batch_size: int,
) -> None:
    visible = draw(np.random.default_rng(0), 21, cut.num_segments, sampling)
    perturbed = perturbation(photo, cut, hide, num_samples=21, sampling=sampling)
    filled = perturbed.fill
    for start in range(0, 21, batch_size):
        images = perturbed.images(visible[start : start + batch_size], start)
        for place, image in enumerate(images, start):
            top, left = (0, 0) if filled.corners is None else filled.corners[place]
            hidden = filled.canvas[top : top + photo.shape[0], left : left + photo.shape[1]]
            expected = images_by_definition(photo, cut, hidden, visible[place])
            np.testing.assert_array_equal(image, expected, err_msg=str(place))


@pytest.mark.parametrize("batch_size", [None, 5])
def test_any_number_of_threads_gives_the_same_bytes(
    photo: NDArray[np.uint8], linear_softmax: MakePredict, batch_size: int | None
) -> None:
    predict = linear_softmax((96, 80))

    class Threaded:
        def __init__(self, max_concurrency: int) -> None:
            self.max_concurrency = max_concurrency

        def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return predict(images)

    found = [
        explain(
            photo, Threaded(count), seed=4, top_labels=3, num_samples=300, batch_size=batch_size
        )
        for count in (1, 2, 3, 8)
    ]
    for other in found[1:]:
        assert other.explanations == found[0].explanations
        assert other.samples.probabilities.tobytes() == found[0].samples.probabilities.tobytes()


def test_the_callers_thread_works_too_and_gets_the_progress(
    photo: NDArray[np.uint8], linear_softmax: MakePredict
) -> None:
    predict = linear_softmax((96, 80))
    asked: set[threading.Thread] = set()
    reported: list[tuple[int, threading.Thread]] = []
    both = threading.Barrier(2, timeout=60)
    first_two = threading.Semaphore(2)

    class Threaded:
        max_concurrency = 2

        def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            asked.add(threading.current_thread())
            if first_two.acquire(blocking=False):
                both.wait()  # passes only if two threads are here at once
            return predict(images)

    explain(
        photo,
        Threaded(),
        seed=4,
        num_samples=200,
        batch_size=10,
        progress=lambda done, _: reported.append((done, threading.current_thread())),
    )
    assert len(asked) == 2
    assert threading.current_thread() in asked
    assert [done for done, _ in reported] == list(range(10, 201, 10))
    assert {thread for _, thread in reported} == {threading.current_thread()}


def test_a_model_may_prefer_a_batch_size(
    photo: NDArray[np.uint8], linear_softmax: MakePredict
) -> None:
    predict = linear_softmax((96, 80))
    sizes: list[int] = []

    class Choosy:
        batch_size = 12

        def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            sizes.append(len(images))
            return predict(images)

    found = explain(photo, Choosy(), seed=4, num_samples=100)
    assert sizes == [12] * 8 + [4, 1]  # the last is the baseline
    sizes.clear()
    check(found, Choosy(), photo, num_random=2)
    assert set(sizes[:-1]) == {12}
    sizes.clear()
    explain(photo, Choosy(), seed=4, num_samples=100, compat="lime")
    assert set(sizes[:-1]) == {10}
    sizes.clear()
    explain(photo, Choosy(), seed=4, num_samples=100, batch_size=50)
    assert sizes == [50, 50, 1]


@pytest.mark.parametrize(
    "options",
    [
        ExplainOptions(),
        ExplainOptions(hide="shuffle"),
        ExplainOptions(hide="shuffle", sampling="independent"),
        ExplainOptions(hide=(0, 0, 0), compat="lime"),
        ExplainOptions(method="kernel_shap", batch_size=1),
        ExplainOptions(method="occlusion"),
    ],
)
def test_a_model_that_makes_the_images_itself_gets_only_rows(
    photo: NDArray[np.uint8],
    linear_softmax: MakePredict,
    cut: Segmentation,
    options: ExplainOptions,
) -> None:
    predict = linear_softmax((96, 80))

    class MakesThem:
        def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            raise AssertionError(f"{len(images)} images were made here")

        def prepare_perturbed(
            self,
            image: NDArray[np.uint8],
            canvas: NDArray[np.uint8],
            columns: NDArray[np.intp],
        ) -> Any:
            height, width = image.shape[:2]

            def of_rows(
                visible: NDArray[np.bool_], corners: NDArray[np.intp] | None
            ) -> NDArray[np.float32]:
                places = [(0, 0)] * len(visible) if corners is None else corners.tolist()
                padded = np.pad(visible, ((0, 0), (0, 1)), constant_values=True)
                made = [
                    np.where(
                        row[columns][..., np.newaxis],
                        image,
                        canvas[top : top + height, left : left + width],
                    )
                    for row, (top, left) in zip(padded, places, strict=True)
                ]
                return predict(np.stack(made))

            return of_rows

    options = {"num_samples": 101, "seed": 3, "segments": cut.labels, **options}
    there = explain(photo, MakesThem(), **options)
    here = explain(photo, predict, **options)
    assert there.explanations == here.explanations
    np.testing.assert_array_equal(there.samples.probabilities, here.samples.probabilities)
