"""The cuts of masks: their outlines on a face, in face units (see `limelens.train.synthetic.face`).

Nothing is known here of cloth, colours or images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MaskKind = Literal["surgical", "cloth", "cup", "sport", "bandana", "gaiter"]


@dataclass(frozen=True)
class Cut:
    """An upper and a lower edge, both bent, joined by two bent sides.

    Attributes:
        top: y of the upper edge on the nose.
        top_side: y of the upper edge at the cheeks.
        top_half: Half the width at the upper corners.
        bottom: y of the lower edge in the middle.
        bottom_side: y of the lower edge at the cheeks.
        bottom_half: Half the width at the lower corners.
        top_power: How late the upper edge bends; 1 is straight down from the nose.
        bottom_power: How late the lower edge bends.
        bulge: How far the sides bend outwards.
        loops: Whether it is held by ear loops or headbands.
    """

    top: float
    top_side: float
    top_half: float
    bottom: float
    bottom_side: float
    bottom_half: float
    top_power: float = 1.6
    bottom_power: float = 2.2
    bulge: float = 0.0
    loops: bool = True

    def varied(self, rng: np.random.Generator) -> "Cut":
        """One of another maker, or worn a little higher or lower."""
        width = float(rng.uniform(0.96, 1.05))
        return replace(
            self,
            top=self.top + float(rng.uniform(-0.02, 0.06)),
            top_side=self.top_side + float(rng.uniform(-0.04, 0.06)),
            bottom=self.bottom + float(rng.uniform(-0.04, 0.08)),
            top_half=self.top_half * width,
            bottom_half=self.bottom_half * width,
        )

    def top_at(self, x: Floats) -> Floats:
        """The upper edge's y at x, of the same shape."""
        bend = np.minimum(np.abs(x) / self.top_half, 1.2) ** self.top_power
        return (self.top + (self.top_side - self.top) * bend).astype(np.float32)

    def bottom_at(self, x: Floats) -> Floats:
        """The lower edge's y at x, of the same shape."""
        bend = np.minimum(np.abs(x) / self.bottom_half, 1.2) ** self.bottom_power
        return (self.bottom - (self.bottom - self.bottom_side) * bend).astype(np.float32)

    def outline(self) -> Floats:
        """`(N, 2)` corners, clockwise from the upper left one."""
        upper = np.linspace(-self.top_half, self.top_half, 25, dtype=np.float32)
        lower = np.linspace(self.bottom_half, -self.bottom_half, 25, dtype=np.float32)
        along = np.linspace(0, 1, 12, dtype=np.float32)[1:-1]
        side_x = self.top_half + (self.bottom_half - self.top_half) * along
        side_x = side_x + self.bulge * np.sin(np.pi * along)
        side_y = self.top_side + (self.bottom_side - self.top_side) * along
        return np.concatenate(
            [
                np.stack([upper, self.top_at(upper)], 1),
                np.stack([side_x, side_y], 1),
                np.stack([lower, self.bottom_at(lower)], 1),
                np.stack([-side_x[::-1], side_y[::-1]], 1),
            ]
        ).astype(np.float32)


CUTS: Final[Mapping[MaskKind, Cut]] = {
    "surgical": Cut(0.36, 0.60, 0.94, 1.93, 1.42, 0.82, bulge=-0.02),
    "cloth": Cut(0.33, 0.70, 0.99, 1.93, 1.16, 0.97, top_power=1.5, bottom_power=2.3),
    "cup": Cut(0.31, 0.98, 0.84, 1.92, 1.14, 0.84, top_power=2.3, bottom_power=2.6, bulge=0.02),
    "sport": Cut(0.34, 0.56, 1.03, 1.88, 0.98, 1.01, top_power=1.5, bottom_power=1.9),
    "bandana": Cut(
        0.38, 0.42, 1.06, 2.75, 1.15, 1.06, top_power=1.8, bottom_power=0.9, loops=False
    ),
    "gaiter": Cut(0.40, 0.46, 1.06, 2.62, 2.36, 0.80, top_power=1.8, bulge=-0.03, loops=False),
}
"""Masks as they are worn."""

CHIN_CUT: Final = Cut(1.38, 1.12, 0.90, 2.06, 1.45, 0.84, bottom_power=2.0)
"""A mask that was pulled down below the mouth."""

SCARF_CUT: Final = Cut(1.74, 1.40, 0.98, 2.75, 2.35, 1.28, bulge=0.16, loops=False)
"""A scarf around the neck, up to the chin."""
