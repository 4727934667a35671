"""Asking the model: perturbed images in, probabilities out, in chunks and in order.

Knows `predict`, threads and deadlines. Does not know segments' meaning or what is fitted.
Memory holds one chunk per thread, whatever the number of samples.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import PredictionError
from limelens.explain.sampling.perturbation import Perturbation
from limelens.explain.stopping import Check

Predict = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
"""`(N, H, W, 3)` uint8 -> `(N, C)` probabilities. It may say more of itself: an integer attribute
`max_concurrency` above 1, that so many threads may call it at once; `batch_size`, how many images
it likes in a call; a method `prepare_perturbed`, that its device makes the perturbed images, see
`MakesImages`. Of a bound method, its object may say so."""

_BATCH_SIZE = 32  # of a `predict` that does not say

PredictRows = Callable[[NDArray[np.bool_], NDArray[np.intp] | None], NDArray[np.floating]]
"""`(B, K)` bool, what each sample shows, and `(B, 2)` where its window of the canvas begins, None
where the canvas has no windows -> `(B, C)` probabilities."""


class MakesImages(Protocol):
    """A `predict` whose device makes the perturbed images, so that only rows travel there."""

    def prepare_perturbed(
        self,
        image: NDArray[np.uint8],
        canvas: NDArray[np.uint8],
        columns: NDArray[np.intp],
    ) -> PredictRows:
        """Take over what all samples share.

        Args:
            image: `(H, W, 3)` RGB.
            canvas: `(H', W', 3)` RGB, what stands where segments are hidden, or what windows of
                the image's size are cut from.
            columns: `(H, W)`, the column of each pixel, K for those that are never hidden.

        Returns:
            The model of rows; called from as many threads as `predict`.
        """
        ...


Progress = Callable[[int, int], None]
"""Called after each chunk with how many samples are predicted, and how many there will be at
most. What it raises stops the run."""


class Predictions:
    """The model's answers, gathered as far as they have been asked for.

    Args:
        predict: the model.
        perturbation: makes images of rows.
        visible: `(N, K)` bool, all rows that may be asked for.
        batch_size: rows per call.
        check_labels: called once with C, as soon as it is known; raises if that is not enough.
        check: called after each chunk; what it raises stops the run.
        progress: told after each chunk.
    """

    def __init__(
        self,
        predict: Predict,
        perturbation: Perturbation,
        visible: NDArray[np.bool_],
        *,
        batch_size: int,
        check_labels: Callable[[int], None],
        check: Check,
        progress: Progress | None,
    ) -> None:
        self.num_done = 0
        self._answer = _answering(predict, perturbation)
        self._visible = visible
        self._batch_size = batch_size
        self._check_labels = check_labels
        self._check = check
        self._progress = progress
        self._answers: NDArray[np.floating] | None = None
        self._lock = Lock()
        self._num_threads = _positive(predict, "max_concurrency", 1)

    @property
    def probabilities(self) -> NDArray[np.floating]:
        """`(num_done, C)` answers so far: float64 where `predict` gives it, else float32."""
        if self._answers is None:
            return np.empty((0, 0), dtype=np.float32)
        return self._answers[: self.num_done]

    def advance(self, target: int, deadline: float | None = None) -> None:
        """Predict rows up to `target`; the very first chunk always, others before the deadline.

        Args:
            target: how many rows shall be done.
            deadline: `time.monotonic()` after which no further chunk starts; `num_done` then
                stays below the target.

        Raises:
            PredictionError: the answer has a wrong shape or is not finite.
            Exception: whatever `predict`, a check or the progress callback raises.
        """
        starts = range(self.num_done, target, self._batch_size)
        chunks = [(start, min(start + self._batch_size, target)) for start in starts]
        finished: dict[int, int] = {}
        num_before = num_predicted = self.num_done
        for start, stop in self._run(chunks, deadline):
            finished[start] = stop
            num_predicted += stop - start
            if self._progress is not None:
                self._progress(num_predicted, self._visible.shape[0])
            self._check()
        while num_before in finished:  # what lies beyond a gap came too late
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
                self._store(start, self._answer(self._visible[start:stop], start), stop)
            except BaseException:
                stopped.set()  # at once: the caller's thread may take a while to learn of it
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

    def _store(self, start: int, answer: Any, stop: int) -> None:
        found = np.asarray(answer)
        expected = f"expected ({stop - start}, number of labels)"
        if found.ndim != 2 or found.shape[0] != stop - start or found.shape[1] == 0:
            raise PredictionError(
                f"predict returned shape {found.shape} for {stop - start} images; {expected}"
            )
        if found.dtype.kind not in "fiub":
            raise PredictionError(f"predict returned {found.dtype}; expected float32")
        if not np.isfinite(found).all():
            row = start + int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            raise PredictionError(
                f"predict returned a number that is not finite for sample {row}; expected "
                f"probabilities: check the model's outputs for NaN and infinity"
            )
        with self._lock:
            if self._answers is None:
                self._check_labels(found.shape[1])
                precision = np.float64 if found.dtype == np.float64 else np.float32
                self._answers = np.empty((self._visible.shape[0], found.shape[1]), precision)
        if found.shape[1] != self._answers.shape[1]:
            raise PredictionError(
                f"predict returned {found.shape[1]} labels for one chunk and "
                f"{self._answers.shape[1]} for another; expected the same number each time"
            )
        self._answers[start:stop] = found


def liked_batch_size(predict: Predict) -> int:
    """How many images a model likes in a call."""
    return _positive(predict, "batch_size", _BATCH_SIZE)


def _answering(
    predict: Predict, perturbation: Perturbation
) -> Callable[[NDArray[np.bool_], int], NDArray[np.floating]]:
    """From rows, and which sample the first of them is, to answers."""
    prepare = _said(predict, "prepare_perturbed")
    if prepare is None:
        return lambda visible, first: predict(perturbation.images(visible, first))
    fill = perturbation.fill
    of_rows: PredictRows = prepare(perturbation.image, fill.canvas, perturbation.columns)

    def answer(visible: NDArray[np.bool_], first: int) -> NDArray[np.floating]:
        corners = fill.corners
        if corners is not None:
            corners = corners[first : first + visible.shape[0]]
        return of_rows(visible, corners)

    return answer


def _positive(predict: Predict, attribute: str, default: int) -> int:
    value = _said(predict, attribute)
    return value if isinstance(value, int) and value > 0 else default


def _said(predict: Predict, attribute: str) -> Any:
    said = getattr(predict, attribute, None)
    return getattr(getattr(predict, "__self__", None), attribute, None) if said is None else said
