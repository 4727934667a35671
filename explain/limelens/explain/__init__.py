"""LIME for image classifiers: an image and a predict function in, an explanation out."""

from limelens.explain.drawing.curves import draw_curves
from limelens.explain.drawing.fonts import MissingFontWarning
from limelens.explain.drawing.heat_map import heat_map, side_by_side
from limelens.explain.drawing.masks import image_and_mask
from limelens.explain.drawing.overlay import overlay
from limelens.explain.drawing.steps import steps
from limelens.explain.errors import (
    ExplainError,
    InvalidArgumentError,
    MissingPackageError,
    PredictionError,
    UnknownLabelError,
)
from limelens.explain.explainer import explain, explain_progressively
from limelens.explain.explanation import (
    Explanation,
    LabelExplanation,
    Samples,
    SegmentWeight,
    Timings,
)
from limelens.explain.faithfulness import Faithfulness, check
from limelens.explain.segmentation.segments import UNSEEN
from limelens.explain.settings import ExplainOptions, Settings
from limelens.explain.surrogate.fit import contrast
from limelens.explain.warning import ExplanationWarning, WarningKind

__all__ = [
    "UNSEEN",
    "ExplainError",
    "ExplainOptions",
    "Explanation",
    "ExplanationWarning",
    "Faithfulness",
    "InvalidArgumentError",
    "LabelExplanation",
    "MissingFontWarning",
    "MissingPackageError",
    "PredictionError",
    "Samples",
    "SegmentWeight",
    "Settings",
    "Timings",
    "UnknownLabelError",
    "WarningKind",
    "check",
    "contrast",
    "draw_curves",
    "explain",
    "explain_progressively",
    "heat_map",
    "image_and_mask",
    "overlay",
    "side_by_side",
    "steps",
]
