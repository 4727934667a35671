"""Events as cameras bring them."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tests.waiting import PATIENCE_S as PATIENCE_S

from limelens.serve.client.results import (
    ExplainSettings,
    ExplanationTimings,
    LabelExplanation,
    ModelRef,
    SegmentWeight,
    ServedExplanation,
)
from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.decisions.decision import Score
from limelens.watch.event import (
    DecisionRule,
    Event,
    EventExplanation,
    EventType,
    Evidence,
    FrameVote,
    new_event_id,
)


def jpeg(width: int = 64, height: int = 48) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def grid(height: int, width: int) -> NDArray[np.uint16]:
    """Nine segments, row by row."""
    rows, columns = np.mgrid[0:3, 0:3]
    cells = (3 * rows + columns).astype(np.uint16)
    return np.kron(cells, np.ones((height // 3, width // 3), np.uint16))


def png(segments: NDArray[np.uint16]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(segments).save(file, "PNG")
    return file.getvalue()


def alert(**changes: Any) -> Event:
    """Two of five frames say without_mask, which raises an alert."""
    now = changes.pop("time", datetime.now(UTC))
    bare = (0.1, 0.2, 0.15, 0.8, 0.9)
    votes = tuple(
        FrameVote(
            frame_id=number,
            time=now - timedelta(seconds=0.2 * (4 - number)),
            label="without_mask" if share >= 0.5 else "with_mask",
            scores=tuple(
                sorted(
                    (Score("without_mask", share), Score("with_mask", 1 - share)),
                    key=lambda score: -score.probability,
                )
            ),
        )
        for number, share in enumerate(bare)
    )
    values: dict[str, Any] = {
        "id": new_event_id(),
        "camera_id": "door",
        "sequence": 1,
        "type": EventType.STATE,
        "time": now,
        "state": CameraState.ALERT,
        "previous": CameraState.CLEAR,
        "label": "without_mask",
        "probability": 0.9,
        "frame_id": 4,
        "capture_time": now,
        "model": "facemask",
        "version": 2,
        "provider": "CPUExecutionProvider",
        "evidence": Evidence(
            frame_id=4,
            jpeg=jpeg(),
            votes=votes,
            rule=DecisionRule(0.5, 5, 4, 2, ("without_mask",)),
        ),
    }
    return Event(**{**values, **changes})


def lost(**changes: Any) -> Event:
    values: dict[str, Any] = {
        "id": new_event_id(),
        "camera_id": "door",
        "sequence": 2,
        "type": EventType.LOST,
        "time": datetime.now(UTC),
        "state": CameraState.UNKNOWN,
        "previous": CameraState.ALERT,
        "reason": "camera_lost",
        "detail": "the camera refused the password (401)",
    }
    return Event(**{**values, **changes})


def explanation(event_id: str, **changes: Any) -> EventExplanation:
    """The lower middle of the image speaks for without_mask."""
    one = LabelExplanation(
        label="without_mask",
        probability=0.9,
        intercept=0.1,
        local_prediction=0.88,
        score=0.92,
        stability=0.96,
        weights=(SegmentWeight(7, 0.25, 0.02), SegmentWeight(1, -0.1, 0.02)),
        overlay_png=b"",
        heat_map_png=b"",
        baseline=0.2,
    )
    found = ServedExplanation(
        explanations=(one,),
        num_segments=9,
        num_samples=500,
        seed=3,
        warnings=(),
        segments_png=png(grid(48, 48)),
        model=ModelRef("facemask", 2, "CPUExecutionProvider"),
        timings_ms=ExplanationTimings(1, 2, 3, 4, 10),
        settings=ExplainSettings(method="lime", hide=(1, 2, 3), num_samples=500),
    )
    values: dict[str, Any] = {"explanation": found, "overlay_png": b"\x89PNG overlay"}
    return EventExplanation(event_id, **{**values, **changes})
