"""The columns of an explanation, with the words of `limelens explain --json`."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import pyarrow as pa
from scipy.ndimage import find_objects

from limelens.bulk.predictions import BOX
from limelens.serve.client.results import LabelExplanation, ServedExplanation
from limelens.serve.explaining.rendering import RenderedExplanation

_WEIGHT: Final = pa.struct(
    [("segment", pa.int32()), ("weight", pa.float64()), ("std_error", pa.float64())]
)
_NUMBERS: Final = (
    "probability", "baseline", "intercept", "local_prediction", "score", "stability",
)  # fmt: skip
_OF_LABELS: Final = ("overlay_png", "heat_map_png")
_SEGMENT: Final = pa.struct([("segment", pa.int32()), ("box", BOX), ("share", pa.float32())])
_HOW: Final = {
    "method": pa.string(),
    "num_segments": pa.int32(),
    "num_samples": pa.int32(),
    "seed": pa.int64(),
    "warnings": pa.list_(pa.string()),
    "settings_from_model": pa.list_(pa.string()),
}


def explanation_fields(renderings: Collection[str]) -> list[pa.Field]:
    """The columns of an explanation with these drawings: overlay, heat_map, segments."""
    drawn = {f"{name}_png" for name in renderings}
    label = [
        pa.field("label", pa.string()),
        pa.field("against", pa.string()),
        *(pa.field(name, pa.float64()) for name in _NUMBERS),
        pa.field("weights", pa.list_(_WEIGHT)),
        *(pa.field(name, pa.binary()) for name in _OF_LABELS if name in drawn),
    ]
    return [
        pa.field("explanations", pa.list_(pa.struct(label))),
        pa.field("segments", pa.list_(_SEGMENT)),
        *(pa.field(name, kind) for name, kind in _HOW.items()),
        pa.field("settings", pa.string()),
        *([pa.field("segments_png", pa.binary())] if "segments_png" in drawn else []),
    ]


def explanation_values(found: ServedExplanation, rendered: RenderedExplanation) -> dict[str, Any]:
    """The values of `explanation_fields`; drawings that nobody asked for are left out there."""
    settings = None if found.settings is None else asdict(found.settings)
    return {
        "explanations": [_label_values(one) for one in found.explanations],
        "segments": segment_places(rendered),
        **{name: getattr(found, name) for name in _HOW},
        "settings": json.dumps(
            {name: value for name, value in (settings or {}).items() if name != "why"}
        ),
        "segments_png": found.segments_png,
    }


def segment_places(rendered: RenderedExplanation) -> list[dict[str, Any]]:
    """Where each segment is: its box, and its share of the pixels that the model saw."""
    fitted = rendered.fitted
    left, top, right, bottom = fitted.target_box
    height, width = fitted.source_size
    inside = rendered.explanation.segments[top:bottom, left:right]
    ids, numbers, counts = np.unique(inside, return_inverse=True, return_counts=True)
    source_left, source_top, source_right, source_bottom = fitted.source_box
    across = (source_right - source_left) / (right - left)
    down = (source_bottom - source_top) / (bottom - top)
    return [
        {
            "segment": segment,
            "box": {
                "left": (source_left + columns.start * across) / width,
                "top": (source_top + rows.start * down) / height,
                "right": (source_left + columns.stop * across) / width,
                "bottom": (source_top + rows.stop * down) / height,
            },
            "share": count / inside.size,
        }
        for segment, count, (rows, columns) in zip(
            ids.tolist(),
            counts.tolist(),
            find_objects(numbers.reshape(inside.shape) + 1),
            strict=True,
        )
    ]


def _label_values(one: LabelExplanation) -> dict[str, Any]:
    return {
        "label": one.label,
        "against": one.against,
        **{name: getattr(one, name) for name in _NUMBERS},
        "weights": [asdict(weight) for weight in one.weights],
        **{name: getattr(one, name) for name in _OF_LABELS},
    }
