"""Decides an event's frames again, with another threshold or other votes.

It knows votes and rules; the model does not run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.decisions.smoothing import Smoothing
from limelens.watch.event import DecisionRule, Event, FrameVote
from limelens.watch.record.errors import RecordError


@dataclass(frozen=True, slots=True)
class ReplayedFrame:
    """One frame, decided again.

    Args:
        vote: What was recorded of it.
        label: What it says with the other threshold; None if the model then abstains.
        decision: The decision after it; None while there is none.
    """

    vote: FrameVote
    label: str | None
    decision: str | None


@dataclass(frozen=True)
class Replay:
    """What would have been decided.

    Args:
        state: The state then.
        label: The label then; None if there is none.
        differs: Whether the state or the label differs from the recorded one.
        frames: The frames, oldest first.
        rule: The rule that was used.
        num_missing: How many frames of the window were not recorded: with them, the decision may
            have come earlier.
    """

    state: CameraState
    label: str | None
    differs: bool
    frames: tuple[ReplayedFrame, ...]
    rule: DecisionRule
    num_missing: int


def replay(
    event: Event,
    *,
    threshold: float | None = None,
    window: int | None = None,
    required: int | None = None,
    required_to_alert: int | None = None,
) -> Replay:
    """Decides the frames behind an event again, as if they were the first ones.

    Args:
        event: With evidence.
        threshold: The probability that a label needs, 0 to 1; None is as recorded.
        window: How many frames count; None is as recorded, or all.
        required: How many of them must agree: more than half of the window. None is as recorded, or
            the least possible.
        required_to_alert: How many must agree on an alert label, 1 to `required`; None is as
            recorded, as far as that is possible.

    Raises:
        RecordError: No frames were recorded, or a value cannot be used.
    """
    votes = () if event.evidence is None else event.evidence.votes
    if not votes:
        raise RecordError(
            f"event {event.id} has no recorded frames: no frame brought it, so there is nothing to "
            "decide again"
        )
    if not any(vote.scores for vote in votes):
        raise RecordError(f"event {event.id}: the model judged nobody in its frames")
    rule = _rule(event, votes, threshold, window, required, required_to_alert)
    smoothing = Smoothing(rule.window, rule.required, required_to_alert=rule.required_to_alert)
    frames: list[ReplayedFrame] = []
    for vote in votes:
        label = vote.label if threshold is None else _decided(vote, threshold)
        decision = smoothing.add(label, is_alert=label in rule.alert_labels)
        frames.append(ReplayedFrame(vote, label, decision))
    label = smoothing.label
    state = CameraState.UNKNOWN
    if label is not None:
        state = CameraState.ALERT if label in rule.alert_labels else CameraState.CLEAR
    return Replay(
        state=state,
        label=label,
        differs=(state, label) != (event.state, event.label),
        frames=tuple(frames),
        rule=rule,
        num_missing=max(0, rule.window - len(votes)),
    )


def _decided(vote: FrameVote, threshold: float) -> str | None:
    """The label of a frame; as in `decide`, compared as float32."""
    best = max(vote.scores, key=lambda score: score.probability, default=None)
    if best is None or not np.float32(best.probability) >= np.float32(threshold):
        return None
    return best.label


def _rule(
    event: Event,
    votes: tuple[FrameVote, ...],
    threshold: float | None,
    window: int | None,
    required: int | None,
    required_to_alert: int | None,
) -> DecisionRule:
    recorded = None if event.evidence is None else event.evidence.rule
    if threshold is not None and not 0 <= threshold <= 1:
        raise RecordError(f"threshold {threshold:g}; expected 0 to 1")
    if window is None:
        window = len(votes) if recorded is None else recorded.window
    if not 1 <= window <= 1000:
        raise RecordError(f"window {window}; expected 1 to 1000")
    least = window // 2 + 1
    if required is None:
        required = least if recorded is None else min(window, max(least, recorded.required))
    if not least <= required <= window:
        raise RecordError(
            f"required {required}; expected {least} to {window}, more than half of the window of "
            f"{window}"
        )
    if required_to_alert is None:
        required_to_alert = required
        if recorded is not None:
            required_to_alert = min(required, recorded.required_to_alert)
    if not 1 <= required_to_alert <= required:
        raise RecordError(
            f"required to alert {required_to_alert}; expected 1 to {required}, as many as are "
            "required"
        )
    if recorded is not None:
        alerts, before = recorded.alert_labels, recorded.threshold
    else:
        is_alert = event.state == CameraState.ALERT and event.label is not None
        alerts, before = ((event.label or "",) if is_alert else ()), None
    return DecisionRule(
        threshold=before if threshold is None else threshold,
        window=window,
        required=required,
        required_to_alert=required_to_alert,
        alert_labels=alerts,
    )
