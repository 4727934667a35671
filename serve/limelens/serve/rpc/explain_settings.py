"""How images are explained, as messages of the contract: a model's own settings, and those used.

Knows settings and messages. Does not know where settings come from.
"""

from __future__ import annotations

import json
from typing import Any

from limelens.explain.settings import DEFAULT_NUM_SEGMENTS, VARYING_FILLS, Hide
from limelens.serve.bundle.explain_defaults import NUMBERED, ExplainDefaults
from limelens.serve.explaining.rendering import RenderedExplanation
from limelens.v1 import explanation_pb2


def default_settings(own: ExplainDefaults) -> explanation_pb2.ExplainSettings:
    """A model's own settings; fields that it leaves open are unset."""
    return _message(
        method=own.method,
        hide=own.hide,
        num_fills=own.num_fills or 0,
        segmentation=own.segmentation,
        num_segments=own.num_segments,
        num_samples=own.num_samples,
        kernel_width=own.kernel_width,
        sampling=own.sampling,
        why_json=json.dumps(dict(own.why), ensure_ascii=False) if own.why else None,
    )


def settings_used(explained: RenderedExplanation) -> explanation_pb2.ExplainSettings:
    """The settings of an explanation; with them, a request gives it again."""
    settings, found = explained.settings, explained.explanation
    cut = settings.segmentation or ("quickshift" if settings.like_lime else "slic")
    number = (settings.num_segments or DEFAULT_NUM_SEGMENTS) if cut in NUMBERED else None
    is_own = explained.is_own_cut
    return _message(
        method=found.method,
        hide=found.hide,
        num_fills=settings.fills_per_row if found.hide in VARYING_FILLS else 0,
        segmentation=None if is_own else cut,
        num_segments=None if is_own else number,
        parameters=settings.segmentation_options,
        num_samples=settings.sample_limit,
        kernel_width=settings.kernel_width if found.method == "lime" else None,
        sampling=found.sampling,
    )


def _message(
    *,
    method: str | None,
    hide: Hide | None,
    segmentation: str | None,
    num_segments: int | None,
    num_samples: int | None,
    kernel_width: float | None,
    sampling: str | None,
    parameters: Any = None,
    why_json: str | None = None,
    num_fills: int = 0,
) -> explanation_pb2.ExplainSettings:
    cut: dict[str, Any] = {"num_segments": num_segments, **(parameters or {})}
    if segmentation is not None:
        cut["method"] = f"SEGMENTATION_METHOD_{segmentation.upper()}"
    cut = {name: value for name, value in cut.items() if value is not None}
    return explanation_pb2.ExplainSettings(
        method=None if method is None else f"EXPLAIN_METHOD_{method.upper()}",
        hide=None if hide is None else _hide(hide, num_fills),
        segmentation=explanation_pb2.Segmentation(**cut) if cut else None,
        num_samples=num_samples,
        kernel_width=kernel_width,
        sampling=None if sampling is None else f"SAMPLING_{sampling.upper()}",
        why_json=why_json,
    )


def _hide(hide: Hide, num_fills: int) -> explanation_pb2.Hide:
    if isinstance(hide, str):
        # Fields are named like the fills.
        name = "segment_mean" if hide == "mean" else hide
        return explanation_pb2.Hide(**{name: True}, num_fills=num_fills)
    red, green, blue = hide
    return explanation_pb2.Hide(color=red << 16 | green << 8 | blue)
