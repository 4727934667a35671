"""The columns of a prediction, with the words of `limelens classify --json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import pyarrow as pa

from limelens.serve.decisions.decision import FacePrediction, Prediction

_DECIDED: Final = (
    pa.field("decision", pa.string()),
    pa.field("label", pa.string()),
    pa.field("labels", pa.list_(pa.string())),
    pa.field("probabilities", pa.map_(pa.string(), pa.float32())),
    pa.field("alert", pa.bool_()),
)
PREDICTION: Final = (
    *_DECIDED,
    pa.field("threshold", pa.float32()),
    pa.field("macro_label", pa.string()),
)
BOX: Final = pa.struct([(edge, pa.float32()) for edge in ("left", "top", "right", "bottom")])
"""A place in fractions, 0 to 1, of the upright image's width and height."""
FACE: Final = pa.struct(
    [
        pa.field("box", BOX),
        pa.field("box_px", pa.list_(pa.int32(), 4)),
        pa.field("score", pa.float32()),
        *_DECIDED,
        pa.field("issue", pa.string()),
    ]
)


def prediction_values(prediction: Prediction) -> dict[str, Any]:
    """The values of `PREDICTION`."""
    return {
        "decision": prediction.decision.value,
        "label": prediction.label,
        "labels": prediction.labels,
        "probabilities": [(score.label, score.probability) for score in prediction.scores],
        "alert": prediction.alert,
        "threshold": prediction.threshold,
        "macro_label": prediction.macro_label,
    }


def face_values(face: FacePrediction, size: tuple[int, int]) -> dict[str, Any]:
    """The values of `FACE`, in an upright image of this height and width."""
    return {
        **prediction_values(face.prediction),
        "box": asdict(face.box),
        "box_px": face.box.box(*size),
        "score": face.score,
        "issue": None if face.issue is None else face.issue.value,
    }
