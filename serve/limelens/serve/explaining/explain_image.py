"""Explains one image on a bundle, in the calling thread.

Knows `limelens.explain` and bundles. Does not know messages or threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from limelens import explain as lime
from limelens.explain import Faithfulness
from limelens.serve.bundle import Bundle
from limelens.serve.explaining.errors import serving_errors
from limelens.serve.explaining.rendering import DecodedImage, RenderedExplanation, render
from limelens.serve.explaining.segments import read_segments
from limelens.serve.explaining.spec import ExplainSpec
from limelens.serve.image import fit

if TYPE_CHECKING:
    from limelens.serve.bundle.execution.perturbing import PreparePerturbed

_P = ParamSpec("_P")
_T = TypeVar("_T")


def explain_image(
    bundle: Bundle, spec: ExplainSpec, check: Callable[[], None] = lambda: None
) -> RenderedExplanation:
    """Explains one image.

    Args:
        bundle: The model whose prediction is explained.
        spec: What to explain, and how.
        check: Called before every chunk of samples, between the stages and within the long ones;
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

    Args:
        bundle: The model.
        spec: What to explain, and how.
        check: May stop the work.
        is_wanted: If it returns false, an explanation is left out unless it is final.

    Yields:
        Explanations from more and more samples; the last is what `explain_image` returns.
    """
    image, settings = _decode(bundle, spec, check)
    model = _Model(bundle, check)
    with serving_errors(settings.segmentation_options):
        for found in lime.explain_progressively(image.fitted.pixels, model, settings):
            if found.is_final or is_wanted():
                yield render(found, image, spec, bundle.labels, check)


def check_explained(bundle: Bundle, explained: RenderedExplanation) -> tuple[Faithfulness, ...]:
    """Whether the model follows the segments in the order that its explanation gives.

    Returns:
        One for each label that is explained by itself; none for contrasts.
    """
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
        self.prepare_perturbed: PreparePerturbed | None = None
        self._predict = _checked(bundle.predict, check)
        if (prepare := bundle.prepare_perturbed) is not None:
            self.prepare_perturbed = lambda *shared: _checked(prepare(*shared), check)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._predict(images)


def _checked(function: Callable[_P, _T], check: Callable[[], None]) -> Callable[_P, _T]:
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        check()
        return function(*args, **kwargs)

    return checked
