"""The model's probabilities for the perturbed images, in chunks and in order.

Knows `predict`, threads and deadlines. Does not know what segments mean, or the fit. Memory holds
one chunk per thread, for any number of samples.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import PredictionError, UnknownLabelError
from limelens.explain.sampling.perturbation import Perturbation
from limelens.explain.settings import References, Settings
from limelens.explain.validation import as_references

Predict = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
"""`(N, H, W, 3)` uint8 -> `(N, C)` probabilities. It, or the object of a bound method, may have
attributes: `max_concurrency`, how many threads may call it at once; `batch_size`, the preferred
number of images in a call; `prepare_perturbed`, a `Prepare`, if its device makes the images;
`references`, which `hide="references"` shows in place of hidden segments."""
PredictRows = Callable[[NDArray[np.bool_], NDArray[np.intp] | None], NDArray[np.floating]]
"""`(B, K)` bool, what each sample shows, and `(B, 2)` where its window of the canvas begins, None
where the canvas has no windows -> `(B, C)` probabilities. As many threads call it as `Predict`."""
Prepare = Callable[[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.intp]], PredictRows]
"""Takes what all samples share: the image, `(H, W, 3)` RGB; the canvas, `(H', W', 3)` RGB, which
stands where segments are hidden, or from which windows of the image's size are cut; `(H, W)` the
column of each pixel, K for those that are never hidden."""

_BATCH_SIZE = 32  # of a `predict` without a preference


class Predictions:
    """The model's probabilities, for as many rows as `advance` was called for.

    Args:
        predict: The model.
        perturbation: Makes images of rows.
        visible: `(N, K)` bool, all rows that may be predicted.
        settings: The labels that must exist, the batch size, and what to call after each chunk.

    Attributes:
        num_done: How many rows are predicted.
        batch_size: Rows per call.
    """

    def __init__(
        self,
        predict: Predict,
        perturbation: Perturbation,
        visible: NDArray[np.bool_],
        settings: Settings,
    ) -> None:
        self.num_done = 0
        default = 10 if settings.like_lime else _positive(predict, "batch_size", _BATCH_SIZE)
        # KernelSHAP needs the image and its absence, even after the deadline.
        fewest = settings.fills_per_row + 1 if settings.method == "kernel_shap" else 1
        self.batch_size = max(settings.batch_size or default, fewest)
        self._predict_rows = _row_model(predict, perturbation)
        self._visible = visible
        self._settings = settings
        self._found: NDArray[np.floating] | None = None
        self._lock = Lock()
        self._num_threads = _positive(predict, "max_concurrency", 1)

    @property
    def probabilities(self) -> NDArray[np.floating]:
        """`(num_done, C)` so far: float64 where `predict` gives it, else float32."""
        if self._found is None:
            return np.empty((0, 0), dtype=np.float32)
        return self._found[: self.num_done]

    def advance(self, target: int, deadline: float | None = None) -> None:
        """Predict rows up to `target`; the very first chunk always, others before the deadline.

        Args:
            target: How many rows to reach.
            deadline: `time.monotonic()` after which no further chunk starts; `num_done` then
                stays below the target.

        Raises:
            PredictionError: The probabilities have a wrong shape or are not finite.
            UnknownLabelError: The model lacks a label of the settings.
            Exception: Any error of `predict`, a check or the progress callback.
        """
        settings = self._settings
        starts = range(self.num_done, target, self.batch_size)
        chunks = [(start, min(start + self.batch_size, target)) for start in starts]
        finished: dict[int, int] = {}
        num_before = num_predicted = self.num_done
        for start, stop in self._run(chunks, deadline):
            finished[start] = stop
            num_predicted += stop - start
            if settings.progress is not None:
                settings.progress(num_predicted, self._visible.shape[0])
            settings.check()
        while num_before in finished:  # chunks beyond a gap came too late
            num_before = finished[num_before]
        self.num_done = num_before

    def _run(
        self, chunks: list[tuple[int, int]], deadline: float | None
    ) -> Iterator[tuple[int, int]]:
        """Works through the chunks and yields those that are done, always in the caller's thread.

        The caller's thread works too: a thread that only waited for the others would be woken at
        every chunk, and on a busy machine each time takes a core from one that computes.
        """
        stopped = Event()
        todo = deque(chunks)
        done: deque[tuple[int, int]] = deque()

        def work_on_one() -> bool:
            try:
                start, stop = todo.popleft()
            except IndexError:
                return False
            late = deadline is not None and start > 0 and time.monotonic() >= deadline
            if late or stopped.is_set():
                return False
            try:
                self._store(start, self._predict_rows(self._visible[start:stop], start), stop)
            except BaseException:
                stopped.set()  # at once: the caller's thread may take a while to notice
                raise
            done.append((start, stop))
            return True

        def work() -> None:
            while work_on_one():
                pass

        num_helpers = min(self._num_threads, len(chunks)) - 1
        if num_helpers < 1:
            while work_on_one():
                yield done.popleft()
            return
        pool = ThreadPoolExecutor(num_helpers, thread_name_prefix="limelens-samples")
        try:
            helpers = [pool.submit(work) for _ in range(num_helpers)]
            while work_on_one():
                while done:
                    yield done.popleft()
            for helper in helpers:
                helper.result()
                while done:
                    yield done.popleft()
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _store(self, start: int, returned: Any, stop: int) -> None:
        found = _checked(returned, start, stop)
        num_labels = found.shape[1]
        with self._lock:
            if self._found is None:
                for label in self._settings.labels or ():
                    if label >= num_labels:
                        raise UnknownLabelError(
                            "labels",
                            f"labels names {label}; predict has labels 0 to {num_labels - 1}",
                        )
                precision = np.float64 if found.dtype == np.float64 else np.float32
                self._found = np.empty((self._visible.shape[0], num_labels), precision)
        if num_labels != self._found.shape[1]:
            raise PredictionError(
                f"predict returned {num_labels} labels for one chunk and "
                f"{self._found.shape[1]} for another; expected the same number each time"
            )
        self._found[start:stop] = found


def predict_whole(predict: Predict, image: NDArray[np.uint8]) -> NDArray[np.floating]:
    """The model's probabilities for one unperturbed image, `(C,)`.

    Raises:
        PredictionError: `predict` returned a wrong shape or non-finite numbers.
    """
    probabilities: NDArray[np.floating] = _checked(predict(image[np.newaxis]), 0, 1)[0]
    return probabilities


def references_of(predict: Predict) -> References | None:
    """The reference images that come with a model.

    Raises:
        InvalidArgumentError: They are no images with labels.
    """
    found = _attribute(predict, "references")
    return None if found is None else as_references("references", found)


def _checked(returned: Any, start: int, stop: int) -> NDArray[np.floating]:
    """What `predict` returned for samples `start` to `stop`."""
    found = np.asarray(returned)
    if found.ndim != 2 or found.shape[0] != stop - start or found.shape[1] == 0:
        raise PredictionError(
            f"predict returned shape {found.shape} for {stop - start} images; expected "
            f"({stop - start}, number of labels)"
        )
    if found.dtype.kind not in "fiub":
        raise PredictionError(f"predict returned {found.dtype}; expected float32")
    if not np.isfinite(found).all():
        row = start + int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise PredictionError(
            f"predict returned a number that is not finite for sample {row}; expected "
            "probabilities: check the model's outputs for NaN and infinity"
        )
    return found


def _row_model(
    predict: Predict, perturbation: Perturbation
) -> Callable[[NDArray[np.bool_], int], NDArray[np.floating]]:
    """From rows, and which sample the first of them is, to probabilities."""
    prepare: Prepare | None = _attribute(predict, "prepare_perturbed")
    if prepare is None:
        return lambda visible, first: predict(perturbation.images(visible, first))
    fill = perturbation.fill
    of_rows = prepare(perturbation.image, fill.canvas, perturbation.columns)

    def predict_rows(visible: NDArray[np.bool_], first: int) -> NDArray[np.floating]:
        if fill.corners is None:
            return of_rows(visible, None)
        return of_rows(visible, fill.corners[first : first + len(visible)])

    return predict_rows


def _positive(predict: Predict, name: str, default: int) -> int:
    value = _attribute(predict, name)
    return value if isinstance(value, int) and value > 0 else default


def _attribute(predict: Predict, name: str) -> Any:
    value = getattr(predict, name, None)
    return getattr(getattr(predict, "__self__", None), name, None) if value is None else value
