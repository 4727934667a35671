"""Tells a frozen camera from a still scene: its frames repeat bit by bit, which noise never does.

It knows brightness and times, and nothing of cameras.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_SAMPLES: Final = 160
"""Pixels that are looked at, along the shorter side; letters and digits are larger than a step."""
_BLOCKS: Final = 16
_NEAR: Final = 3.0
"""By so much, of 255, may a part of the same scene change its mean, if it is encoded again."""
_MOST_VARIANTS: Final = 64
_ENOUGH_NEW: Final = 3
"""So many frames in a row must be new before a frozen camera counts as back."""


class Stillness:
    """Watches the frames of one camera.

    A frame is a repetition if it equals an earlier one of the same scene. The last one is not
    enough: an encoder sends a whole frame now and then, which differs a little from those between,
    though the scene it was made from stands still. But a scene that comes back after another one
    is new.

    Args:
        after_s: Seconds without a new frame after which a camera is frozen.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._scene: NDArray[np.float32] | None = None
        self._variants: set[int] = set()
        self._last_new_at = 0.0
        self._num_new = 0
        self._is_frozen = False

    def is_frozen(self, brightness: NDArray[np.uint8], at: float) -> bool:
        """Whether the camera is frozen, now that this frame came.

        Args:
            brightness: `(H, W)`, the frame's, 0 to 255.
            at: When it came, in monotonic seconds.
        """
        step = max(1, min(brightness.shape) // _SAMPLES)
        seen = np.ascontiguousarray(brightness[::step, ::step])
        scene = _means(seen)
        variant = hash(seen.tobytes())
        if self._scene is None or not _is_near(scene, self._scene):
            self._scene, self._variants = scene, {variant}
            self._last_new_at, self._num_new, self._is_frozen = at, 0, False
            return False
        if variant in self._variants:
            self._num_new = 0
            self._is_frozen = self._is_frozen or at - self._last_new_at >= self._after_s
            return self._is_frozen
        if len(self._variants) >= _MOST_VARIANTS:
            self._variants.clear()
        self._variants.add(variant)
        self._num_new += 1
        self._last_new_at = at
        self._is_frozen = self._is_frozen and self._num_new < _ENOUGH_NEW
        return self._is_frozen


def _means(seen: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean of each of some blocks, `(rows, columns)`."""
    rows, columns = (np.arange(0, size, max(1, size // _BLOCKS)) for size in seen.shape)
    sums = np.add.reduceat(np.add.reduceat(seen.astype(np.float32), rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff(rows, append=seen.shape[0]), np.diff(columns, append=seen.shape[1]))
    means: NDArray[np.float32] = (sums / counts).astype(np.float32)
    return means


def _is_near(scene: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return scene.shape == other.shape and bool(np.abs(scene - other).max() <= _NEAR)
