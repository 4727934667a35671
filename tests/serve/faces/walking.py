"""People who walk through a hall, as boxes in the frames of a camera above the door."""

from __future__ import annotations

from dataclasses import dataclass

from limelens.serve.faces.boxes import Face

WIDTH, HEIGHT = 640, 480
_FOCAL_PX = 500.0
_FACE_M = 0.2


@dataclass(frozen=True)
class Walker:
    """Someone who walks straight on.

    Args:
        x: Metres to the right of the middle of the frame when they come.
        depth: Metres from the camera then.
        right: Metres a second to the right.
        nearer: Metres a second towards the camera.
        comes: When they come, in seconds.
        leaves: When they are gone.
        away: From when until when they turn their face away.
    """

    x: float
    depth: float = 3.0
    right: float = 0.0
    nearer: float = 0.0
    comes: float = 0.0
    leaves: float = 60.0
    away: tuple[float, float] = (0.0, 0.0)

    def face(self, now: float) -> Face | None:
        """Where a detector finds their face; None where it does not."""
        if not self.comes <= now < self.leaves or self.away[0] <= now < self.away[1]:
            return None
        depth = self.depth - self.nearer * (now - self.comes)
        x = WIDTH / 2 + _FOCAL_PX * (self.x + self.right * (now - self.comes)) / depth
        side = _FOCAL_PX * _FACE_M / depth
        y = HEIGHT / 2 - 0.1 * _FOCAL_PX / depth
        if not -side / 4 < x < WIDTH + side / 4:
            return None
        # A detector's boxes tremble by some hundredths of a face.
        tremble = 0.03 * side * (-1) ** round(now * 5 + self.x * 7)
        return Face(x - side / 2 + tremble, y - side / 2, x + side / 2 + tremble, y + side / 2, 0.9)


def crowd() -> list[Walker]:
    """Twenty people near and far, all to be seen, who go slowly to the right."""
    walkers = []
    for i in range(20):
        depth = 2.5 + i % 4
        x = (60 + 26 * i - WIDTH / 2) * depth / _FOCAL_PX
        walkers.append(Walker(x, depth, right=0.02 * depth, nearer=0.02 * depth))
    return walkers


def frame(walkers: list[Walker], now: float) -> dict[int, Face]:
    """The faces that are found, by the walker's index; the one in front hides those behind."""
    found: dict[int, Face] = {}
    faces = {i: face for i, one in enumerate(walkers) if (face := one.face(now)) is not None}
    for i, face in sorted(faces.items(), key=lambda pair: -pair[1].size_px):
        near = 0.6 * face.size_px
        if all(
            abs(face.left - other.left) > near or abs(face.top - other.top) > near
            for other in found.values()
        ):
            found[i] = face
    return found
