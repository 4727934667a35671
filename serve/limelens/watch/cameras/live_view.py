"""Tells `LiveCameras` how a camera is, at a bounded rate. It knows answers, and decides nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from limelens.serve.client.results import FrameAnswer
from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.image import Region
from limelens.watch.live import LiveCamera, LiveCameras, LiveFrame

MIN_INTERVAL_S: Final = 0.2
"""Between two updates that only bring a newer frame."""
_RATE_OVER_S: Final = 5.0


class LiveView:
    """One camera's entry; its caller locks.

    Args:
        live: Where it is kept.
        camera_id: The camera.
        source: Where its frames come from, without secrets.
        region: The part that is looked at.
        now: UTC.
    """

    def __init__(
        self,
        live: LiveCameras,
        camera_id: str,
        source: str,
        region: Region | None,
        now: datetime,
    ) -> None:
        self._live = live
        self._camera = LiveCamera(camera_id, source, CameraState.UNKNOWN, now, region=region)
        self._classified: deque[float] = deque()
        self._put_at = -MIN_INTERVAL_S
        self._is_new = True

    def answered(
        self, answer: FrameAnswer, jpeg: bytes, num_skipped: int, at: float, now: datetime
    ) -> None:
        """Takes a classified frame; `at` is by `time.monotonic`, `now` UTC."""
        self._classified.append(at)
        prediction = answer.prediction
        scores = () if prediction is None else prediction.scores
        by_label = {score.label: score.probability for score in scores}
        self._set(
            decided_at=at,
            num_frames=self._camera.num_frames + 1,
            num_dropped=answer.dropped_frames + num_skipped,
            probability=by_label.get(answer.smoothed_label or ""),
            people=len(answer.faces) if answer.faces else self._camera.people and 0,
            model=answer.model.name,
            version=answer.model.version,
            provider=answer.model.provider,
            total_ms=answer.timings_ms.total,
            frame=LiveFrame(jpeg, answer.faces, now) if jpeg else None,
        )

    def says(self, **changes: Any) -> None:
        """Sets what has news for everybody, at once; names as of `LiveCamera`."""
        self._set(**changes)
        self._put_at = -MIN_INTERVAL_S

    def update(self, at: float) -> None:
        """Publishes what is new, unless that was done a moment ago."""
        while self._classified and self._classified[0] < at - _RATE_OVER_S:
            self._classified.popleft()
        if len(self._classified) > 1:
            seconds = max(at - self._classified[0], 0.1)
            fps = len(self._classified) / max(seconds, min(_RATE_OVER_S, seconds))
        else:
            fps = len(self._classified) / _RATE_OVER_S
        if not self._classified and self._camera.fps:
            self._set(fps=0.0)
        if self._is_new and at - self._put_at >= MIN_INTERVAL_S:
            self._camera = replace(self._camera, fps=fps)
            self._live.put(self._camera)
            self._put_at, self._is_new = at, False

    def remove(self) -> None:
        """Forgets the camera."""
        self._live.remove(self._camera.camera_id)

    def _set(self, **changes: Any) -> None:
        self._camera = replace(self._camera, **changes)
        self._is_new = True
