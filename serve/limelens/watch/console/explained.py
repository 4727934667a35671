"""An explanation in the reader's words: where the strongest regions are, and whether to believe it.

It knows explanations and the keys of sentences, and nothing of pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from limelens.serve import LabelExplanation, ServedExplanation
from limelens.watch.console.language import Say
from limelens.watch.record.words import (
    LOW_STABILITY,
    POOR_FIT,
    Place,
    RegionInWords,
    strongest_regions,
)

_GOOD_FIT: Final = 0.6
_HIGH_STABILITY: Final = 0.85
_FIT: Final = ("explained.fit_high", "explained.fit_middle", "explained.fit_low")
_STEADINESS: Final = (
    "explained.stability_high", "explained.stability_middle", "explained.stability_low",
)  # fmt: skip
_SMALL: Final = 0.05
"""Weights below it get another digit."""
_OF_ITS_OWN: Final = (
    Place.MOST, Place.EDGES, Place.ABOVE, Place.BELOW, Place.LEFT_OF, Place.RIGHT_OF,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Region:
    """One region.

    Args:
        segment: Its id.
        where: `lower middle of the face`.
        weight: `+0.25`.
        speaks: `for without_mask`.
        is_for: Whether it supports the label.
        share: Its part of the strongest one's weight, 0 to 1.
        is_clear: Whether its weight is more than its error.
    """

    segment: int
    where: str
    weight: str
    speaks: str
    is_for: bool
    share: float
    is_clear: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """One label's explanation.

    Args:
        label: The label.
        regions: The strongest, strongest first.
        doubts: Why not to rely on it, in the reader's language; empty if nothing speaks against it.
        warnings: The server's, in English.
        fit: R² in words; `score` is the number.
        steadiness: The stability in words; `stability` is the number.
    """

    label: str
    regions: tuple[Region, ...]
    doubts: tuple[str, ...]
    warnings: tuple[str, ...]
    fit: str
    score: float
    steadiness: str
    stability: float

    @property
    def is_reliable(self) -> bool:
        """Whether nothing speaks against it."""
        return not (self.doubts or self.warnings)

    @property
    def strongest(self) -> tuple[int, ...]:
        """The segments of the regions, in their order."""
        return tuple(region.segment for region in self.regions)


def explained(say: Say, found: ServedExplanation, one: LabelExplanation) -> Explained:
    """Puts one label's explanation into words."""
    regions = strongest_regions(found, one)
    strongest = max((abs(region.weight) for region in regions), default=0.0) or 1.0
    doubts = []
    if not one.score >= POOR_FIT:  # NaN too
        doubts.append(say("explained.doubt_fit", value=f"{one.score:.2f}"))
    if not one.stability >= LOW_STABILITY:
        doubts.append(say("explained.doubt_stability", value=f"{one.stability:.2f}"))
    if one.weights and not any(region.is_clear for region in regions):
        doubts.append(say("explained.doubt_weights"))
    return Explained(
        label=one.label,
        regions=tuple(_region(say, region, strongest) for region in regions),
        doubts=tuple(doubts),
        warnings=found.warnings,
        fit=say(_FIT[_grade(one.score, POOR_FIT, _GOOD_FIT)]),
        score=one.score,
        steadiness=say(_STEADINESS[_grade(one.stability, LOW_STABILITY, _HIGH_STABILITY)]),
        stability=one.stability,
    )


def _region(say: Say, region: RegionInWords, strongest: float) -> Region:
    is_for = region.weight >= 0
    if is_for:
        speaks = say("explained.for", label=region.label)
    elif region.against is None:
        speaks = say("explained.against", label=region.label)
    else:
        speaks = say("explained.for", label=region.against)
    return Region(
        segment=region.segment,
        where=_where(say, region),
        weight=f"{region.weight:+.{2 if strongest >= _SMALL else 3}f}".replace("-", "\u2212"),
        speaks=speaks,
        is_for=is_for,
        share=abs(region.weight) / strongest,
        is_clear=region.is_clear,
    )


def _where(say: Say, region: RegionInWords) -> str:
    if region.place in _OF_ITS_OWN:
        return say(f"places.{region.place}_{region.whole}")
    return say(f"places.{region.place}", whole=say(f"wholes.{region.whole}"))


def _grade(value: float, low: float, high: float) -> int:
    """0 if it is high, 1 in the middle, 2 if it is low or no number."""
    return 0 if value >= high else 1 if value >= low else 2
