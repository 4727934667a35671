"""Explains one image on a bundle, and draws what was asked for.

It knows `limelens.explain` and bundles, and nothing of messages and threads.
"""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from limelens.serve.bundle import Bundle
from limelens.serve.bundle.execution.batch_sizes import is_out_of_memory
from limelens.serve.errors import (
    InvalidImageError,
    InvalidRequestError,
    MissingExtraError,
    ModelOutputError,
    OverloadedError,
)
from limelens.serve.explaining.spec import MAX_SEGMENTS, ExplainSpec
from limelens.serve.image import UNSEEN, Fitted, fit, shrink
from limelens.serve.image.decoding import open_checked

if TYPE_CHECKING:
    from limelens.explain import Explanation, Faithfulness, LabelExplanation
    from limelens.serve.bundle.execution.perturbing import PreparePerturbed, RowModel

MAX_DRAWN: Final = 1024
"""Longer side of the images that are drawn, in pixels."""
_FIELDS: Final = {
    "segments": "segmentation.segments_png",
    "segmentation_options": "segmentation",
    "max_segments": "segmentation",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RenderedExplanation:
    """One image's explanation, with the images that were asked for as PNG files.

    Args:
        explanation: As `limelens.explain` gave it.
        answers: What was asked for: labels, then contrasts.
        overlays: One for each answer; empty where they were not asked for.
        heat_maps: The same.
        segments: Ids of the upright image's size, 16-bit greyscale; empty likewise.
        warnings: What speaks against trusting it, naming labels.
        decode_s: Decoding and resizing, in seconds.
        pixels: `(H, W, 3)` uint8, the image as the model saw it.
        started_at: When its turn came, by `time.monotonic`.
    """

    explanation: Explanation
    answers: tuple[LabelExplanation, ...]
    overlays: tuple[bytes, ...]
    heat_maps: tuple[bytes, ...]
    segments: bytes
    warnings: tuple[str, ...]
    decode_s: float
    pixels: NDArray[np.uint8]
    started_at: float = 0.0


@dataclass(frozen=True, eq=False)
class ExplanationProgress:
    """An explanation that is still becoming better.

    Args:
        explained: So far.
        max_samples: How many samples there will be at most.
        stability: The least of the labels explained.
        is_final: Whether it is the last.
    """

    explained: RenderedExplanation
    max_samples: int
    stability: float
    is_final: bool


class _Model:
    """A bundle as `limelens.explain` calls it, with a check before every chunk."""

    def __init__(self, bundle: Bundle, check: Callable[[], None]) -> None:
        self.max_concurrency = bundle.max_concurrency
        self.batch_size = bundle.batch_size
        prepare = bundle.prepare_perturbed
        self.prepare_perturbed = None if prepare is None else self._checked(prepare)
        self._bundle = bundle
        self._check = check

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._check()
        return self._bundle.predict(images)

    def _checked(self, prepare: PreparePerturbed) -> PreparePerturbed:
        """The same for images that the device makes."""

        def prepared(
            image: NDArray[np.uint8], canvas: NDArray[np.uint8], columns: NDArray[np.intp]
        ) -> RowModel:
            of_rows = prepare(image, canvas, columns)

            def answer(
                visible: NDArray[np.bool_], corners: NDArray[np.intp] | None
            ) -> NDArray[np.float32]:
                self._check()
                return of_rows(visible, corners)

            return answer

        return prepared


def explain_image(
    bundle: Bundle,
    question: ExplainSpec,
    check: Callable[[], None] = lambda: None,
) -> RenderedExplanation:
    """Explains one image, in the calling thread.

    Args:
        bundle: The model whose answer is explained.
        question: What is asked.
        check: Called before every chunk of samples, between the stages and within the long ones;
            what it raises stops the work.

    Raises:
        InvalidRequestError: The image or a parameter cannot be used.
        ModelOutputError: The model gave numbers that are not finite.
        MissingExtraError: `limelens[explain]` is not installed.
    """
    subject = _Subject(bundle, question, check)
    with _domain_errors(question):
        import limelens.explain as lime

        return subject.drawn(
            lime.explain(subject.fitted.pixels, subject.model, **subject.options())
        )


def explain_image_progressively(
    bundle: Bundle,
    question: ExplainSpec,
    check: Callable[[], None] = lambda: None,
    *,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Iterator[ExplanationProgress]:
    """Explains one image in rounds, in the calling thread.

    Args:
        bundle: As for `explain_image`.
        question: As for `explain_image`.
        check: As for `explain_image`.
        is_wanted: Where it says no, an explanation that is not the last is left out.

    Yields:
        Explanations from more and more samples; the last is what `explain_image` gives.

    Raises:
        LimelensError: As `explain_image`.
    """
    subject = _Subject(bundle, question, check)
    target = question.options.get("stability")
    most: list[int] = []

    def progress(_num_done: int, max_samples: int) -> None:
        most[:] = [max_samples]

    def update(found: Explanation, *, is_final: bool) -> ExplanationProgress:
        stability = min(one.stability for one in found.explanations)
        return ExplanationProgress(subject.drawn(found), most[0], stability, is_final)

    with _domain_errors(question):
        import limelens.explain as lime

        found = None
        is_final = False
        for found in lime.explain_progressively(
            subject.fitted.pixels, subject.model, progress=progress, **subject.options()
        ):
            is_final = found.num_samples >= most[0] or (
                target is not None and min(one.stability for one in found.explanations) >= target
            )
            if is_final or is_wanted():
                yield update(found, is_final=is_final)
        # Past the deadline the rounds end with an explanation that did not look like the last.
        if found is not None and not is_final:
            yield update(found, is_final=True)


def check_explained(bundle: Bundle, explained: RenderedExplanation) -> tuple[Faithfulness, ...]:
    """Whether the model follows the segments in the order that an explanation gives.

    Args:
        bundle: The model that was explained.
        explained: Its explanation.

    Returns:
        One for each label that is explained by itself; none for contrasts.

    Raises:
        LimelensError: As `explain_image`.
    """
    with _domain_errors():
        import limelens.explain as lime

        model = _Model(bundle, lambda: None)
        return tuple(
            lime.check(explained.explanation, model, explained.pixels, label=one.label)
            for one in explained.answers
            if one.against is None
        )


class _Subject:
    """An image as it is explained, and how what is found of it is drawn.

    Args:
        bundle: The model whose answer is explained.
        question: What is asked.
        check: May stop the work.
    """

    def __init__(self, bundle: Bundle, question: ExplainSpec, check: Callable[[], None]) -> None:
        check()
        self._started_at = began = time.monotonic()
        self._upright = question.image.read()
        self.fitted = fit(self._upright, bundle.metadata.resize, question.image.region)
        self.model = _Model(bundle, check)
        self._labels = bundle.labels
        self._question = question
        self._check = check
        self._own: NDArray[np.uint16] | None = None
        if question.segments_png:
            size, most = self.fitted.source_size, question.image.limits.max_pixels
            own = read_segments(question.segments_png, size, most)
            self._own = self.fitted.from_source(own)
        self._decode_s = time.monotonic() - began
        check()

    def options(self) -> Any:
        """The arguments of `limelens.explain.explain`, from now on."""
        question = self._question
        options = {**question.options, "max_segments": MAX_SEGMENTS, "check": self._check}
        if self._own is not None:
            options["segments"] = self._own
        if question.deadline_ms is not None:
            spent = round(1000 * (time.monotonic() - question.arrived_at))
            options["deadline_ms"] = max(1, question.deadline_ms - spent)
        return options

    def drawn(self, explanation: Explanation) -> RenderedExplanation:
        """An explanation with the images that were asked for."""
        import limelens.explain as lime

        question, labels = self._question, self._labels
        contrasts = [lime.contrast(explanation, *pair) for pair in question.contrasts]
        answers = (*(() if question.only_contrasts else explanation.explanations), *contrasts)
        overlays: list[bytes] = []
        heat_maps: list[bytes] = []
        if question.overlay or question.heat_map:
            image, drawn = _at_most(self._upright, self.fitted, MAX_DRAWN)
            segments = drawn.to_source(explanation.segments)
            for one in answers:
                self._check()
                if question.overlay:
                    overlays.append(
                        _png(lime.overlay(image, segments, one, palette=question.palette))
                    )
                if question.heat_map:
                    against = None if one.against is None else labels[one.against]
                    heat_map = lime.heat_map(
                        image,
                        segments,
                        one,
                        label_name=labels[one.label],
                        against_name=against,
                        palette=question.palette,
                    )
                    heat_maps.append(_png(heat_map))
        return RenderedExplanation(
            explanation=explanation,
            answers=answers,
            overlays=tuple(overlays),
            heat_maps=tuple(heat_maps),
            segments=_png(self.fitted.to_source(explanation.segments))
            if question.segments
            else b"",
            warnings=tuple(self._in_words(warning) for warning in explanation.warnings),
            decode_s=self._decode_s,
            pixels=self.fitted.pixels,
            started_at=self._started_at,
        )

    def _in_words(self, warning: str) -> str:
        """A warning as the caller knows its labels and its deadline, which waiting shortened."""
        if self._question.deadline_ms is not None:
            asked = f"deadline of {self._question.deadline_ms} ms"
            warning = re.sub(r"\bdeadline of \S+ ms", asked, warning)
        return _with_names(warning, self._labels)


def read_segments(data: bytes, size: tuple[int, int], max_pixels: int) -> NDArray[np.uint16]:
    """The caller's own segments.

    Args:
        data: A greyscale PNG of 16 bits.
        size: Height and width of the upright image.
        max_pixels: Limit on height times width.

    Returns:
        `size` ids.

    Raises:
        InvalidRequestError: Not such an image, one of another size, or of too many segments.
    """
    name = "segmentation.segments_png"
    height, width = size
    try:
        with open_checked(data, "PNG", max_pixels) as image:
            found = image.height, image.width
            if found != size:
                raise InvalidRequestError(
                    name, f"{found[0]}x{found[1]}; the upright image is {height}x{width}"
                )
            if image.mode != "I;16":
                raise InvalidRequestError(
                    name, f"mode {image.mode}; expected a 16-bit greyscale PNG"
                )
            ids = np.asarray(image).astype(np.uint16)
            count = np.count_nonzero(np.bincount(ids.ravel(), minlength=UNSEEN)[:UNSEEN])
            if count > MAX_SEGMENTS:
                raise InvalidRequestError(
                    name, f"{count} different ids; expected at most {MAX_SEGMENTS}"
                )
            return ids
    except InvalidImageError as error:
        raise InvalidRequestError(
            name, f"no PNG that can be read: {error.description}; expected a 16-bit greyscale PNG"
        ) from error
    except InvalidRequestError:
        raise
    except UnidentifiedImageError as error:
        raise InvalidRequestError(name, "no PNG; expected a 16-bit greyscale PNG") from error
    # A decoder may raise almost anything on broken bytes.
    except Exception as error:
        raise InvalidRequestError(
            name, f"no PNG that can be read: {error}; expected a 16-bit greyscale PNG"
        ) from error


@contextmanager
def _domain_errors(question: ExplainSpec | None = None) -> Iterator[None]:
    """The errors of `limelens.explain` as those of serving, naming what was sent."""
    try:
        import limelens.explain as lime
    except ImportError as error:
        raise MissingExtraError(
            f"explanations need limelens[explain] ({error}); pip install 'limelens[explain]'"
        ) from error
    try:
        yield
    except lime.MissingPackageError as error:
        raise MissingExtraError(str(error)) from error
    except lime.InvalidArgumentError as error:
        raise InvalidRequestError(_field(error.argument, question), str(error)) from error
    except lime.PredictionError as error:
        raise ModelOutputError(str(error)) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _log.error("the device has no memory left for an explanation: %s", error)
        raise OverloadedError("the device has no memory left", 1.0) from error


def _field(argument: str, question: ExplainSpec | None) -> str:
    """The field of a request that an argument of `limelens.explain` came from."""
    options = question.options.get("segmentation_options") if question is not None else None
    if argument in ("segmentation_options", "max_segments") and options and len(options) == 1:
        return f"segmentation.{next(iter(options))}"
    return _FIELDS.get(argument, argument)


def _at_most(
    upright: NDArray[np.uint8], fitted: Fitted, longest: int
) -> tuple[NDArray[np.uint8], Fitted]:
    """The upright image with its longer side at most `longest`, and where it was fitted from."""
    height, width = upright.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return upright, fitted
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    small = shrink(upright, new_height, new_width)
    left, top, right, bottom = fitted.source_box
    left = min(round(left * new_width / width), new_width - 1)
    top = min(round(top * new_height / height), new_height - 1)
    box = (
        left,
        top,
        max(left + 1, round(right * new_width / width)),
        max(top + 1, round(bottom * new_height / height)),
    )
    return small, replace(fitted, source_size=(new_height, new_width), source_box=box)


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
