"""LIME for image classifiers: an image and a predict function in, an explanation out."""

from limelens.explain.curves import draw_curves
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
from limelens.explain.fit import contrast
from limelens.explain.fonts import MissingFontWarning
from limelens.explain.heat_map import heat_map, side_by_side
from limelens.explain.masks import image_and_mask
from limelens.explain.overlay import overlay
from limelens.explain.segments import UNSEEN
from limelens.explain.settings import ExplainOptions

__all__ = [
    "UNSEEN",
    "ExplainError",
    "ExplainOptions",
    "Explanation",
    "Faithfulness",
    "InvalidArgumentError",
    "LabelExplanation",
    "MissingFontWarning",
    "MissingPackageError",
    "PredictionError",
    "Samples",
    "SegmentWeight",
    "Timings",
    "UnknownLabelError",
    "check",
    "contrast",
    "draw_curves",
    "explain",
    "explain_progressively",
    "heat_map",
    "image_and_mask",
    "overlay",
    "side_by_side",
]
