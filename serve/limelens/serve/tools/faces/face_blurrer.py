"""Every face in an image, found through a client, so that it can be blurred.

It asks the model's server, or the model in this process, for faces: if there is no detector, the
error says so and nothing is blurred, or stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.client import Client, FaceOptions
from limelens.serve.decisions.decision import FacePrediction
from limelens.serve.errors import LimelensError
from limelens.serve.faces.blurring import blur_faces
from limelens.serve.faces.options import MAX_FACES
from limelens.serve.image import Region

_LOOKED_FOR: Final = FaceOptions(min_size_px=8, threshold=0.2)
"""Better to blur what is no face than to show one."""
_MAX_ROUNDS: Final = 10
_PART: Final = 0.6
"""A box of which so much lies within that of the face to keep is that face, or a part of it."""


@dataclass(frozen=True)
class FaceBlurrer:
    """Blurs the faces in images.

    Args:
        client: Finds them.
        model: The model whose server, or process, has the detector; empty means the only one.
        version: Its version; 0 means the newest.
    """

    client: Client = field(repr=False)
    model: str = ""
    version: int = 0

    def blur(
        self, pixels: NDArray[np.uint8], keep: FacePrediction | None = None
    ) -> NDArray[np.uint8]:
        """The image with every face blurred.

        Args:
            pixels: The upright image, `(H, W, 3)` uint8 RGB.
            keep: The face that stays; None if none does.

        Returns:
            A copy, `(H, W, 3)` uint8.

        Raises:
            LimelensError: As `Client.classify`, such as without a detector; or there are too many.
        """
        faces = self.find(pixels)
        if keep is None:
            return blur_faces(pixels, faces)
        others = [one for one in faces if _share_within(keep.box, one) < _PART]
        return blur_faces(pixels, others, keep.box)

    def check(self) -> None:
        """Finds out whether faces can be found at all; raises as `blur`."""
        self.find(np.zeros((64, 64, 3), np.uint8))

    def find(self, pixels: NDArray[np.uint8]) -> list[Region]:
        """The boxes of all faces, however many; raises as `blur`."""
        found: list[Region] = []
        left = pixels
        for _ in range(_MAX_ROUNDS):
            (prediction,) = self.client.classify(
                left, model=self.model, version=self.version, faces=_LOOKED_FOR
            )
            found += [face.box for face in prediction.faces]
            if len(prediction.faces) < MAX_FACES:
                return found
            # There may be more than are found at a time: what was found is painted over.
            left = left.copy()
            for face in prediction.faces:
                x0, y0, x1, y1 = face.box.box(*left.shape[:2])
                left[y0:y1, x0:x1] = np.uint8(128)
        raise LimelensError(
            f"more than {len(found)} faces in one image; expected fewer to be able to blur all"
        )


def _share_within(face: Region, other: Region) -> float:
    """How much of the other box lies within a face's, 0 to 1."""
    width = min(face.right, other.right) - max(face.left, other.left)
    height = min(face.bottom, other.bottom) - max(face.top, other.top)
    area = (other.right - other.left) * (other.bottom - other.top)
    return max(0.0, width) * max(0.0, height) / area
