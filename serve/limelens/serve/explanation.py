"""Explains pictures on a served bundle, without getting in the way of those who classify.

Explanations run in threads of their own, few at a time, which the operating system schedules
after everybody else's; they call the bundle directly and stop within one chunk when nobody waits
any more. It knows `limelens.explain` and bundles, and nothing of messages.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.bundle import Bundle
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    MissingExtraError,
    ModelOutputError,
    OverloadedError,
)
from limelens.serve.image import Fitted, fit
from limelens.serve.requests import MAX_SEGMENTS, Question, read_segments

if TYPE_CHECKING:
    from limelens.explain import Explanation

MAX_DRAWN: Final = 1024
"""Longer side of the pictures that are drawn, in pixels."""
_NICENESS: Final = 19
_FIELDS: Final = {
    "segments": "segmentation.segments_png",
    "segmentation_options": "segmentation",
    "max_segments": "segmentation",
}


@dataclass(frozen=True, eq=False)
class Explained:
    """One picture's explanation, with the pictures that were asked for as PNG files.

    Args:
        explanation: As `limelens.explain` gave it.
        overlays: One for each label explained; empty where they were not asked for.
        heat_maps: The same.
        segments: Ids of the upright picture's size, 16-bit greyscale; empty likewise.
        warnings: What speaks against trusting it, naming labels.
        decode_s: Decoding and resizing, in seconds.
    """

    explanation: Explanation
    overlays: tuple[bytes, ...]
    heat_maps: tuple[bytes, ...]
    segments: bytes
    warnings: tuple[str, ...]
    decode_s: float


class _Stop:
    """Whether anybody still waits."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._left = threading.Event()

    def leave(self) -> None:
        self._left.set()

    def check(self) -> None:
        if self._left.is_set():
            raise ExpiredError("the caller left")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise ExpiredError("the deadline passed before the explanation was done")


class Explainer:
    """The threads that explain.

    Args:
        max_running: Explanations at a time; each uses as many threads for the model as its
            bundle has.
        max_waiting: Explanations that wait; more are refused.
    """

    def __init__(self, *, max_running: int = 1, max_waiting: int = 8) -> None:
        self._max_running = max_running
        self._most = max_running + max_waiting
        self._pool = ThreadPoolExecutor(max_running, "limelens-explain", initializer=_step_back)
        self._lock = threading.Lock()
        self._count = 0
        self._seconds_each = 2.0

    async def explain(
        self, bundle: Bundle, question: Question, *, deadline: float | None = None
    ) -> Explained:
        """Waits for an explanation. If the waiting is cancelled, the work stops.

        Args:
            bundle: The model whose answer is explained.
            question: What is asked.
            deadline: By `time.monotonic`; work that is not done by then stops.

        Raises:
            OverloadedError: Too many are waiting.
            ExpiredError: The deadline passed first.
            InvalidRequestError: The picture or a parameter cannot be used.
            ModelOutputError: The model gave numbers that are not finite.
            MissingExtraError: `limelens[explain]` is not installed.
        """
        with self._lock:
            if self._count >= self._most:
                raise OverloadedError(
                    f"{self._count} explanations are running or waiting, which is the most",
                    self._seconds_each * self._count / self._max_running,
                )
            self._count += 1
        stop = _Stop(deadline)
        future = self._pool.submit(self._timed, bundle, question, stop)
        future.add_done_callback(self._left)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            stop.leave()
            raise

    def close(self) -> None:
        """Ends the threads, once what is running is done."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _left(self, _future: Future[Explained]) -> None:
        with self._lock:
            self._count -= 1

    def _timed(self, bundle: Bundle, question: Question, stop: _Stop) -> Explained:
        began = time.monotonic()
        explained = explain_picture(bundle, question, stop.check)
        with self._lock:
            self._seconds_each += 0.3 * (time.monotonic() - began - self._seconds_each)
        return explained


class _Model:
    """A bundle as `limelens.explain` calls it, with a check before every chunk."""

    def __init__(self, bundle: Bundle, check: Callable[[], None]) -> None:
        self.max_concurrency = bundle.num_threads
        self._bundle = bundle
        self._check = check

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._check()
        return self._bundle.predict(images)


def explain_picture(
    bundle: Bundle, question: Question, check: Callable[[], None] = lambda: None
) -> Explained:
    """Explains one picture, in the calling thread.

    Args:
        bundle: The model whose answer is explained.
        question: What is asked.
        check: Called before every chunk of samples, between the stages and within the long ones;
            what it raises stops the work.

    Raises:
        InvalidRequestError: The picture or a parameter cannot be used.
        ModelOutputError: The model gave numbers that are not finite.
        MissingExtraError: `limelens[explain]` is not installed.
    """
    try:
        import limelens.explain as lime
    except ImportError as error:
        raise MissingExtraError(
            f"explanations need limelens[explain] ({error}); pip install 'limelens[explain]'"
        ) from error
    check()
    began = time.monotonic()
    upright = question.picture.read()
    fitted = fit(upright, bundle.metadata.resize, question.picture.region)
    options: dict[str, Any] = dict(question.options)
    if question.segments_png:
        own = read_segments(question.segments_png, fitted.source_size, question.picture.max_pixels)
        options["segments"] = fitted.from_source(own)
    decode_s = time.monotonic() - began
    check()
    try:
        explanation = lime.explain(
            fitted.pixels,
            _Model(bundle, check),
            max_segments=MAX_SEGMENTS,
            check=check,
            **options,
        )
    except lime.MissingPackageError as error:
        raise MissingExtraError(str(error)) from error
    except lime.InvalidArgumentError as error:
        raise InvalidRequestError(
            _FIELDS.get(error.argument, error.argument), str(error)
        ) from error
    except lime.PredictionError as error:
        raise ModelOutputError(str(error)) from error
    overlays: list[bytes] = []
    heat_maps: list[bytes] = []
    if question.overlay or question.heat_map:
        picture, drawn = _at_most(upright, fitted, MAX_DRAWN)
        segments = drawn.to_source(explanation.segments)
        for one in explanation.explanations:
            check()
            if question.overlay:
                overlays.append(_png(lime.overlay(picture, segments, one)))
            if question.heat_map:
                name = bundle.labels[one.label]
                heat_maps.append(_png(lime.heat_map(picture, segments, one, label_name=name)))
    return Explained(
        explanation=explanation,
        overlays=tuple(overlays),
        heat_maps=tuple(heat_maps),
        segments=_png(fitted.to_source(explanation.segments)) if question.segments else b"",
        warnings=tuple(_with_names(warning, bundle.labels) for warning in explanation.warnings),
        decode_s=decode_s,
    )


def _at_most(
    upright: NDArray[np.uint8], fitted: Fitted, longest: int
) -> tuple[NDArray[np.uint8], Fitted]:
    """The upright picture with its longer side at most `longest`, and where it was fitted from."""
    height, width = upright.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return upright, fitted
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    small = Image.fromarray(upright).resize(
        (new_width, new_height), Image.Resampling.BILINEAR, reducing_gap=3.0
    )
    left, top, right, bottom = fitted.source_box
    left = min(round(left * new_width / width), new_width - 1)
    top = min(round(top * new_height / height), new_height - 1)
    box = (
        left,
        top,
        max(left + 1, round(right * new_width / width)),
        max(top + 1, round(bottom * new_height / height)),
    )
    return np.asarray(small), replace(fitted, source_size=(new_height, new_width), source_box=box)


def _png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return file.getvalue()


def _with_names(warning: str, labels: tuple[str, ...]) -> str:
    """A warning that speaks of `Label 3`, speaking of the label's name."""
    return re.sub(
        r"\bLabel (\d+)\b",
        lambda found: (
            f"Label {labels[int(found[1])]!r}" if int(found[1]) < len(labels) else found[0]
        ),
        warning,
    )


def _step_back() -> None:
    """Lets every other thread go first. Threads that this one starts inherit it."""
    # Only Linux gives each thread a niceness of its own; elsewhere it would be the process's.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
