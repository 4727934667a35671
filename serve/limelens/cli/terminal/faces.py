"""Predictions and faces as JSON, as lines for people, and drawings as files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.markup import escape

from limelens.cli.terminal.printing import out

if TYPE_CHECKING:
    from limelens.serve.decisions.decision import FacePrediction, Prediction


def prediction_document(prediction: Prediction) -> dict[str, Any]:
    """What every command prints of a prediction as JSON."""
    return {
        "decision": prediction.decision.value,
        "label": prediction.label,
        "labels": list(prediction.labels),
        "scores": [
            {"label": score.label, "probability": score.probability} for score in prediction.scores
        ],
    }


def face_document(face: FacePrediction, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """A face as JSON; with the image's height and width its box is also given in pixels."""
    box = face.box
    document: dict[str, Any] = {
        "box": {"left": box.left, "top": box.top, "right": box.right, "bottom": box.bottom},
        "score": face.score,
        **prediction_document(face.prediction),
        "alert": face.alert,
        "issue": None if face.issue is None else face.issue.value,
    }
    if size is not None:
        document["box_px"] = list(box.box(*size))
    if face.person is not None:
        document |= {
            "person": face.person,
            "smoothed_label": face.smoothed_label,
            "changed": face.changed,
            "seen": face.seen,
        }
    return document


def print_faces(faces: tuple[FacePrediction, ...], size: tuple[int, int]) -> None:
    """A line for each face; boxes are width x height and left, top in pixels."""
    for number, face in enumerate(faces):
        out.print(f"  face {number}  {describe_face(face, size)}")


def describe_face(face: FacePrediction, size: tuple[int, int]) -> str:
    """Where a face is in an image of this height and width, and what was decided; as markup."""
    from limelens.serve.tools.faces.drawing import decided, describe

    left, top, right, bottom = face.box.box(*size)
    where = f"{right - left}x{bottom - top} at {left},{top}"
    label = decided(face)
    if label is None:
        return f"{where}  {describe(face)}"
    style = "bold red" if face.alert else "bold"
    alert = " [red](alert)[/]" if face.alert else ""
    scores = "  ".join(
        f"{escape(score.label)} {score.probability:.3f}" for score in face.prediction.scores
    )
    return f"{where}  [{style}]{escape(label)}[/]{alert}   {scores}"


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    """A drawing, `(H, W, 3)` uint8 RGB, as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
