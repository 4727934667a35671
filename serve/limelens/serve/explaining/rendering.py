"""Draws an explanation on the upright image, and packs it as PNG files.

Knows `limelens.explain` and images. Does not know bundles, messages or threads.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens import explain as lime
from limelens.explain import Explanation, LabelExplanation, Settings
from limelens.serve.explaining.spec import ExplainSpec
from limelens.serve.image import Fitted, Region, shrink

MAX_DRAWN: Final = 1024
"""Longer side of renderings, in pixels."""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """The image that is explained: upright `(H, W, 3)` uint8, and the part that the model sees."""

    upright: NDArray[np.uint8]
    fitted: Fitted
    decode_s: float
    started_at: float


@dataclass(frozen=True, eq=False)
class RenderedExplanation:
    """One image's explanation, with the requested renderings as PNG files.

    Args:
        label_explanations: The requested ones: labels, then contrasts.
        overlays: One for each of them; empty unless requested.
        segments: Ids of the upright image's size, 16-bit greyscale; empty unless requested.
        fitted: The image as the model saw it.
        settings: How it was explained.
        from_model: Which of them are the model's own; see `ExplainSpec`.
        is_own_cut: Whether the caller brought the segments.
    """

    explanation: Explanation
    label_explanations: tuple[LabelExplanation, ...]
    overlays: tuple[bytes, ...]
    heat_maps: tuple[bytes, ...]
    segments: bytes
    decode_s: float
    fitted: Fitted
    started_at: float
    settings: Settings
    from_model: tuple[str, ...]
    is_own_cut: bool

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """`(H, W, 3)` uint8, the image as the model saw it."""
        return self.fitted.pixels


def render(
    explanation: Explanation,
    image: DecodedImage,
    spec: ExplainSpec,
    labels: tuple[str, ...],
    check: Callable[[], None],
) -> RenderedExplanation:
    """Adds contrasts and renderings to an explanation."""
    contrasts = [lime.contrast(explanation, *pair) for pair in spec.contrasts]
    parts = (*(() if spec.only_contrasts else explanation.explanations), *contrasts)
    overlays: list[bytes] = []
    heat_maps: list[bytes] = []
    if spec.overlay or spec.heat_map:
        small, fitted = _at_most(image.upright, image.fitted, MAX_DRAWN)
        segments = fitted.to_source(explanation.segments)
        for one in parts:
            check()
            if spec.overlay:
                overlays.append(_png(lime.overlay(small, segments, one, palette=spec.palette)))
            if spec.heat_map:
                heat_map = lime.heat_map(
                    small,
                    segments,
                    one,
                    label_name=labels[one.label],
                    against_name=None if one.against is None else labels[one.against],
                    palette=spec.palette,
                )
                heat_maps.append(_png(heat_map))
    return RenderedExplanation(
        explanation=explanation,
        label_explanations=parts,
        overlays=tuple(overlays),
        heat_maps=tuple(heat_maps),
        segments=_png(image.fitted.to_source(explanation.segments)) if spec.segments else b"",
        decode_s=image.decode_s,
        fitted=image.fitted,
        started_at=image.started_at,
        settings=spec.settings,
        from_model=spec.from_model,
        is_own_cut=bool(spec.segments_png),
    )


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
    region = Region(left / width, top / height, right / width, bottom / height)
    box = region.box(new_height, new_width)
    return small, replace(fitted, source_size=(new_height, new_width), source_box=box)


def _png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return file.getvalue()
