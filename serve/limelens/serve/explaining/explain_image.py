"""Explains one image on a bundle, in the calling thread.

Knows `limelens.explain`, bundles and the names of request fields, which its errors name. Does not
know messages or threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from limelens import explain as lime
from limelens.explain import Faithfulness
from limelens.explain.settings import References
from limelens.serve.bundle import Bundle
from limelens.serve.bundle.execution.batch_sizes import is_out_of_memory
from limelens.serve.errors import (
    InvalidImageError,
    InvalidRequestError,
    MissingExtraError,
    ModelOutputError,
    OverloadedError,
)
from limelens.serve.explaining.rendering import DecodedImage, RenderedExplanation, render
from limelens.serve.explaining.spec import SEGMENTS_LIMIT, ExplainSpec
from limelens.serve.image import UNSEEN, fit
from limelens.serve.image.decoding import open_checked

if TYPE_CHECKING:
    from limelens.serve.bundle.execution.perturbing import PreparePerturbed

_T = TypeVar("_T")
_SEGMENTS_FIELD: Final = "segmentation.segments_png"
_FIELDS: Final = {
    "segments": _SEGMENTS_FIELD,
    "segmentation_options": "segmentation",
    "max_segments": "segmentation",
    "num_fills": "hide.num_fills",
    "references": "hide.references",
}
_log = logging.getLogger(__name__)


def explain_image(
    bundle: Bundle, spec: ExplainSpec, check: Callable[[], None] = lambda: None
) -> RenderedExplanation:
    """Explains one image.

    `check` is called before every chunk of samples, between the stages and within the long ones;
    raising stops the work.

    Raises:
        InvalidRequestError: The image or an option cannot be used.
        ModelOutputError: The model returned numbers that are not finite.
        MissingExtraError: A package of `limelens[explain]` is not installed.
    """
    image, settings = _decode(bundle, spec, check)
    with serving_errors(settings.segmentation_options):
        found = lime.explain(image.fitted.pixels, _Model(bundle, check), settings)
        return render(found, image, spec, bundle.labels, check)


def explain_image_progressively(
    bundle: Bundle,
    spec: ExplainSpec,
    check: Callable[[], None] = lambda: None,
    *,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Iterator[RenderedExplanation]:
    """Explains one image in rounds; takes and raises what `explain_image` does.

    Explanations that are not final are left out while `is_wanted` returns false.
    """
    image, settings = _decode(bundle, spec, check)
    model = _Model(bundle, check)
    with serving_errors(settings.segmentation_options):
        for found in lime.explain_progressively(image.fitted.pixels, model, settings):
            if found.is_final or is_wanted():
                yield render(found, image, spec, bundle.labels, check)


def check_explained(bundle: Bundle, explained: RenderedExplanation) -> tuple[Faithfulness, ...]:
    """Whether the model follows the segments as each label's explanation orders them."""
    model = _Model(bundle, lambda: None)
    with serving_errors():
        return tuple(
            lime.check(explained.explanation, model, explained.pixels, label=one.label)
            for one in explained.label_explanations
            if one.against is None
        )


def _decode(
    bundle: Bundle, spec: ExplainSpec, check: Callable[[], None]
) -> tuple[DecodedImage, lime.Settings]:
    """The image, and the settings with the caller's own segments in them."""
    check()
    started_at = time.monotonic()
    upright = spec.image.read()
    fitted = fit(upright, bundle.metadata.resize, spec.image.region)
    settings = replace(spec.settings, check=check)
    if spec.segments_png:
        own = read_segments(spec.segments_png, fitted.source_size, spec.image.limits.max_pixels)
        settings = replace(settings, segments=fitted.from_source(own))
    decode_s = time.monotonic() - started_at
    check()
    return DecodedImage(upright, fitted, decode_s, started_at), settings


class _Model:
    """A bundle as `limelens.explain` calls it, with a check before every chunk."""

    def __init__(self, bundle: Bundle, check: Callable[[], None]) -> None:
        self.max_concurrency = bundle.max_concurrency
        self.batch_size = bundle.batch_size
        self._bundle = bundle
        self.prepare_perturbed: PreparePerturbed | None = None
        self._predict = _checked(bundle.predict, check)
        if (prepare := bundle.prepare_perturbed) is not None:
            self.prepare_perturbed = lambda *shared: _checked(prepare(*shared), check)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._predict(images)

    @property
    def references(self) -> References | None:
        """Decoded only for explanations that show them."""
        return self._bundle.references


def _checked(function: Callable[..., _T], check: Callable[[], None]) -> Callable[..., _T]:
    def checked(*args: Any) -> _T:
        check()
        return function(*args)

    return checked


@contextmanager
def serving_errors(segmentation_options: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Turns errors of explaining into errors of serving that name the request's field."""
    try:
        yield
    except lime.MissingPackageError as error:
        raise MissingExtraError(str(error)) from error
    except lime.InvalidArgumentError as error:
        field = _FIELDS.get(error.argument, error.argument)
        if field == "segmentation" and segmentation_options and len(segmentation_options) == 1:
            field = f"segmentation.{next(iter(segmentation_options))}"
        raise InvalidRequestError(field, str(error)) from error
    except lime.PredictionError as error:
        raise ModelOutputError(str(error)) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _log.error("the device has no memory left for an explanation: %s", error)
        raise OverloadedError("the device has no memory left", 1.0) from error


def read_segments(data: bytes, size: tuple[int, int], max_pixels: int) -> NDArray[np.uint16]:
    """The caller's own segments from a 16-bit PNG: ids of `size`, the upright image's."""
    expected = "expected a 16-bit greyscale PNG"
    try:
        with open_checked(data, "PNG", max_pixels) as image:
            if (image.height, image.width) != size:
                found = f"{image.height}x{image.width}"
                raise InvalidRequestError(
                    _SEGMENTS_FIELD, f"{found}; the upright image is {size[0]}x{size[1]}"
                )
            if image.mode != "I;16":
                raise InvalidRequestError(_SEGMENTS_FIELD, f"mode {image.mode}; {expected}")
            ids = np.asarray(image).astype(np.uint16)
    except InvalidImageError as error:
        raise InvalidRequestError(
            _SEGMENTS_FIELD, f"not a readable PNG: {error.description}; {expected}"
        ) from error
    except InvalidRequestError:
        raise
    except UnidentifiedImageError as error:
        raise InvalidRequestError(_SEGMENTS_FIELD, f"not a readable PNG; {expected}") from error
    # A decoder may raise almost anything on broken bytes.
    except Exception as error:
        raise InvalidRequestError(
            _SEGMENTS_FIELD, f"not a readable PNG: {error}; {expected}"
        ) from error
    count = np.count_nonzero(np.bincount(ids.ravel(), minlength=UNSEEN)[:UNSEEN])
    if count > SEGMENTS_LIMIT:
        raise InvalidRequestError(
            _SEGMENTS_FIELD, f"{count} different ids; expected at most {SEGMENTS_LIMIT}"
        )
    return ids
