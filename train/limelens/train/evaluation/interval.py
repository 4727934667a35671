"""How far an accuracy on few images may be from that on many. It knows counts."""

from __future__ import annotations

from typing import Final

from scipy.stats import binomtest

_CONFIDENCE: Final = 0.95


def accuracy_interval(correct: int, num_images: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy (Wilson 1927), each end 0 to 1; `num_images` at least 1."""
    interval = binomtest(correct, num_images).proportion_ci(_CONFIDENCE, "wilson")
    return float(interval.low), float(interval.high)
