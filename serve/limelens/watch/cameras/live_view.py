"""Tells `LiveCameras` how a camera is, at a bounded rate. It knows answers, and decides nothing."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.tools.camera import SourceAnswer
from limelens.watch.cameras.settings import CameraSettings
from limelens.watch.live import LiveCamera, LiveCameras, LiveFrame

MIN_INTERVAL_S: Final = 0.2
"""Between two updates that only bring a newer frame."""
_RATE_OVER_S: Final = 5.0


class LiveView:
    """One camera's entry; its caller locks.

    Args:
        live: Where it is kept.
        settings: The camera's.
        source: Where its frames come from, without secrets.
        now: UTC.
    """

    def __init__(
        self, live: LiveCameras, settings: CameraSettings, source: str, now: datetime
    ) -> None:
        self._live = live
        self._camera = LiveCamera(
            settings.id,
            source,
            CameraState.UNKNOWN,
            now,
            reason=UnknownReason.STARTING,
            region=settings.region,
            max_age_s=settings.holds_for_s,
        )
        self._has_faces = settings.faces
        self._classified: deque[float] = deque()
        self._put_at = -MIN_INTERVAL_S
        self._is_new = True

    def answered(self, found: SourceAnswer, num_skipped: int, now: datetime) -> None:
        """Takes a classified frame; `now` is UTC."""
        answer = found.answer
        self._classified.append(time.monotonic())
        prediction = answer.prediction
        scores = () if prediction is None else prediction.scores
        by_label = {score.label: score.probability for score in scores}
        self._set(
            decided_at=found.taken_at,
            num_frames=self._camera.num_frames + 1,
            num_dropped=answer.dropped_frames + num_skipped,
            probability=by_label.get(answer.smoothed_label or ""),
            people=len(answer.faces) if self._has_faces else None,
            model=answer.model.name,
            version=answer.model.version,
            provider=answer.model.provider,
            total_ms=answer.timings_ms.total,
            queue_ms=answer.timings_ms.queue,
            frame=LiveFrame(found.image, answer.faces, now),
        )

    def says(self, **changes: Any) -> None:
        """Sets what has news for everybody, at once; names as of `LiveCamera`."""
        self._set(**changes)
        self._put_at = -MIN_INTERVAL_S

    def update(self, at: float) -> None:
        """Publishes what is new, unless that was done a moment ago."""
        while self._classified and self._classified[0] < at - _RATE_OVER_S:
            self._classified.popleft()
        if not self._classified and self._camera.fps:
            self._is_new = True
        if self._is_new and at - self._put_at >= MIN_INTERVAL_S:
            self._camera = replace(self._camera, fps=self._fps())
            self._live.put(self._camera)
            self._put_at, self._is_new = at, False

    def remove(self) -> None:
        """Forgets the camera."""
        self._live.remove(self._camera.camera_id)

    def _fps(self) -> float:
        """Frames a second between the first and the last of those that count."""
        if len(self._classified) < 2:
            return 0.0
        seconds = self._classified[-1] - self._classified[0]
        return (len(self._classified) - 1) / max(seconds, 0.001)

    def _set(self, **changes: Any) -> None:
        self._camera = replace(self._camera, **changes)
        self._is_new = True
