"""How long cameras' frames took lately: a sample of them, not every one.

It knows no pages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from limelens.watch.live import LiveCamera, LiveCameras

EVERY_S: Final = 1.0
OVER_S: Final = 600.0


@dataclass(frozen=True)
class Percentiles:
    """Of a number of values.

    Args:
        count: How many.
        p50: Half of them are at most this.
        p99: 99 of 100 are at most this.
    """

    count: int
    p50: float
    p99: float


class Timings:
    """The server's times for the last frame of each camera, looked at once a second.

    Args:
        live: The cameras.
    """

    def __init__(self, live: LiveCameras) -> None:
        self._live = live
        self._total: dict[str, deque[float]] = {}
        self._queue: dict[str, deque[float]] = {}
        self._num_frames: dict[str, int] = {}

    async def follow(self) -> None:
        """Looks until it is cancelled."""
        while True:
            self.look(self._live.all())
            await asyncio.sleep(EVERY_S)

    def look(self, cameras: Sequence[LiveCamera]) -> None:
        """Takes the times of cameras that have a newer frame than before."""
        names = {camera.camera_id for camera in cameras}
        for gone in self._num_frames.keys() - names:
            for held in (self._total, self._queue, self._num_frames):
                held.pop(gone, None)
        for camera in cameras:
            name = camera.camera_id
            if camera.num_frames == self._num_frames.get(name, 0):
                continue
            self._num_frames[name] = camera.num_frames
            self._keep(self._total, name, camera.total_ms)
            self._keep(self._queue, name, camera.queue_ms)

    def total_ms(self, camera_id: str) -> Percentiles | None:
        """Of the whole time, from the server's arrival to its response; None without frames."""
        return _percentiles(self._total.get(camera_id, ()))

    def queue_ms(self, camera_id: str) -> Percentiles | None:
        """Of the time in the server's queue; None without frames."""
        return _percentiles(self._queue.get(camera_id, ()))

    @staticmethod
    def _keep(kept: dict[str, deque[float]], name: str, value: float) -> None:
        kept.setdefault(name, deque(maxlen=round(OVER_S / EVERY_S))).append(value)


def _percentiles(values: Sequence[float]) -> Percentiles | None:
    ordered = sorted(values)
    if not ordered:
        return None
    last = len(ordered) - 1
    return Percentiles(len(ordered), ordered[round(0.5 * last)], ordered[round(0.99 * last)])
