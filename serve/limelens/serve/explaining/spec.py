"""What is to be explained, and how: plain values that were checked where they arrived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from limelens.serve.image.encoded import EncodedImage

MAX_SEGMENTS: Final = 1000
"""More segments of an image are not explained, whoever cut it."""


@dataclass(frozen=True, eq=False)
class ExplainSpec:
    """What is to be explained, and how.

    Args:
        image: What is explained.
        options: Arguments of `limelens.explain.explain`, without image, model and deadline.
        contrasts: Pairs of labels: why the first and not the second. They come after what is
            explained by itself.
        only_contrasts: Whether nothing is explained by itself: the labels in `options` are those
            of the contrasts.
        segments_png: The caller's own segments; empty where a method finds them.
        overlay: Whether overlays are wanted.
        heat_map: Whether heat maps are wanted.
        segments: Whether the segments are wanted.
        palette: The colours of what is drawn, as `limelens.explain` names them.
        deadline_ms: After so long from arrival nothing more begins; None is no limit.
        arrived_at: By `time.monotonic`.
    """

    image: EncodedImage
    options: Mapping[str, Any]
    contrasts: tuple[tuple[int, int], ...]
    only_contrasts: bool
    segments_png: bytes = field(repr=False)
    overlay: bool
    heat_map: bool
    segments: bool
    palette: Literal["green-red", "blue-orange"]
    deadline_ms: int | None
    arrived_at: float

    @property
    def num_samples(self) -> int:
        """How many images the model is shown, at most."""
        return int(self.options.get("max_samples") or self.options["num_samples"])
