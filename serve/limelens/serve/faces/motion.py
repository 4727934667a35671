"""Whether anything moved between two frames: a coarse difference, far cheaper than a detector.

It knows grey values of a few thousand cells and nothing of what they show.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_ROWS: Final = 60
_COLUMNS: Final = 80
"""About so many cells; a cell is the mean of 4 x 4 pixels, taken at equal distances."""
_SAMPLES: Final = 4
_CHANGED: Final = 8.0
"""Grey levels by which a cell must differ to count."""
_NOISE: Final = 6.0
"""And by so many times what the median cell differs, which is the camera's noise."""
_BLINKING: Final = 3
"""So many cells may change, as by a lamp or a compressed edge, and nothing moved."""
_MAX_STILL_S: Final = 5.0


class MotionGate:
    """Remembers the last frame that was looked at, and says whether a new one differs.

    Slow changes count too: a frame is compared with the last one that passed, not with the one just
    before it. A change of the whole light passes once. Whatever it shows, a frame passes five
    seconds after the last one that did, because a change may be too slight for this measure.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.float32] | None = None
        self._view: tuple[object, ...] = ()
        self._passed_at = 0.0

    def moved(self, image: NDArray[np.uint8], now: float, view: object = None) -> bool:
        """Whether a frame must be looked at; it then takes the place of the last one that passed.

        Args:
            image: `(H, W, 3)` RGB, 0 to 255; a change of its size counts as motion.
            now: When it was taken, in seconds; rising.
            view: Which part of the scene it shows; a change of it counts as motion, too.
        """
        cells = _cells(image)
        last = self._last
        if (
            last is not None
            and self._view == (image.shape, view)
            and now - self._passed_at < _MAX_STILL_S
            and not _differ(last, cells)
        ):
            return False
        self._last, self._view, self._passed_at = cells, (image.shape, view), now
        return True

    def forget(self) -> None:
        """Lets the next frame pass."""
        self._last = None


def _differ(before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
    differences = np.abs(after - before)
    usual = float(np.median(differences))
    if usual > _CHANGED:
        return True
    changed = differences > max(_CHANGED, _NOISE * usual)
    return int(changed.sum()) > _BLINKING


def _cells(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean grey values of cells, 0 to 255."""
    height, width = image.shape[:2]
    step = max(1, min(height // (_SAMPLES * _ROWS), width // (_SAMPLES * _COLUMNS)))
    green = image[::step, ::step, 1]  # half of what the eye calls brightness
    rows, columns = (max(1, side // _SAMPLES) for side in green.shape)
    high, wide = min(_SAMPLES, green.shape[0]), min(_SAMPLES, green.shape[1])
    cells = green[: rows * high, : columns * wide].reshape(rows, high, columns, wide)
    return np.asarray(cells.mean(axis=(1, 3), dtype=np.float32))
