"""What to explain, and how: plain values that were checked on arrival."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from limelens.explain import Settings
from limelens.serve.image.encoded import EncodedImage

SEGMENTS_LIMIT: Final = 1000
"""Images with more segments are refused, even if the caller made them."""


@dataclass(frozen=True, eq=False)
class ExplainSpec:
    """What to explain, and how.

    Args:
        settings: How to explain it; its deadline counts from the arrival.
        contrasts: Pairs of labels: why the first and not the second. They come after the labels
            that are explained by themselves.
        only_contrasts: Whether no label is explained by itself: the labels in `settings` are those
            of the contrasts.
        segments_png: The caller's own segments; empty where a method finds them.
        from_model: Which of the settings are the model's own, because the caller left them open.
    """

    image: EncodedImage
    settings: Settings
    contrasts: tuple[tuple[int, int], ...]
    only_contrasts: bool
    segments_png: bytes = field(repr=False)
    overlay: bool
    heat_map: bool
    segments: bool
    palette: Literal["green-red", "blue-orange"]
    arrived_at: float
    from_model: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        """How many images the model predicts at most."""
        return self.settings.sample_limit
