"""Why an event was decided, in plain words and from the record alone.

It knows what is recorded, and English. No server and no model is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from limelens.serve.client.results import LabelExplanation
from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.wording import counted
from limelens.watch.event import Event, EventType, Evidence
from limelens.watch.record.record import Record
from limelens.watch.record.recorded import RecordedEvent, RecordedExplanation
from limelens.watch.record.words import RegionInWords, doubts, strongest_regions

REASONS: Final = {
    UnknownReason.STARTING: "nothing was decided yet",
    UnknownReason.ABSTAINED: "the model did not decide on a label",
    UnknownReason.NOBODY: "nobody was there",
    UnknownReason.EXPIRED: "no frame was classified for too long",
    UnknownReason.FROZEN: "the camera sent the same frame again and again",
    UnknownReason.CAMERA_LOST: "the camera could not be read",
    UnknownReason.SERVER_LOST: "the server did not answer",
    UnknownReason.REFUSED: "the server refused the camera's stream",
    UnknownReason.FAILED: "the frame could not be read, or the model's output not be used",
    UnknownReason.OFF: "the camera was not being watched",
}


@dataclass(frozen=True)
class Why:
    """Everything that is recorded of why an event was decided.

    Args:
        found: The event, with its evidence.
        explanation: As recorded; None if it was not explained.
        one: The label that is explained; None without an explanation.
        regions: The strongest regions of it, strongest first.
        doubts: Why the explanation is not reliable; empty if nothing speaks against it.
    """

    found: RecordedEvent
    explanation: RecordedExplanation | None
    one: LabelExplanation | None
    regions: tuple[RegionInWords, ...]
    doubts: tuple[str, ...]

    @property
    def decided(self) -> list[str]:
        """What was decided, and by how many frames."""
        return [_change(self.found.event), _votes(self.found.event)]

    @property
    def decided_by(self) -> list[str]:
        """By which rule, and by which model, as far as that was recorded."""
        return [*_rule(self.found.event), *_model(self.found.event)]

    @property
    def explained(self) -> list[str]:
        """How the decision is explained, without the regions and the doubts."""
        if self.explanation is None:
            is_alert = self.found.event.state == CameraState.ALERT
            return ["It was not explained, or not yet." if is_alert else "It was not explained."]
        found = self.explanation.explanation
        if found is None or self.one is None:
            return [f"There is no explanation: {self.explanation.reason or 'no reason was given'}."]
        one = self.one
        against = "" if one.against is None else f" rather than {one.against}"
        hidden = "" if one.baseline is None else f", and {one.baseline:.2f} with everything hidden"
        return [
            f"What speaks for {one.label}{against}, by {found.method} with "
            f"{counted(found.num_segments, 'region')} and {counted(found.num_samples, 'sample')}:",
            f"The model's probability is {one.probability:.2f}{hidden}. Fit (R²) {one.score:.2f}, "
            f"stability {one.stability:.2f}; seed {found.seed}.",
        ]

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        one = self.one
        return {
            **self.found.document(),
            "decided": [*self.decided, *self.decided_by],
            "frames": [
                {
                    "frame_id": vote.frame_id,
                    "time": vote.time.isoformat(timespec="milliseconds"),
                    "label": vote.label,
                    "scores": {score.label: score.probability for score in vote.scores},
                }
                for vote in _evidence(self.found.event).votes
            ],
            "explained": self.explained,
            "regions": [
                {
                    "segment": region.segment,
                    "where": region.where,
                    "weight": region.weight,
                    "std_error": region.std_error,
                    "sentence": region.sentence,
                    "clear": region.is_clear,
                }
                for region in self.regions
            ],
            "score": None if one is None else one.score,
            "stability": None if one is None else one.stability,
            "baseline": None if one is None else one.baseline,
            "reliable": None if one is None else not self.doubts,
            "doubts": list(self.doubts),
        }


def why(record: Record, event_id: str) -> Why:
    """Why an event was decided.

    Raises:
        UnknownEventError: There is no such event.
        RecordError: The record cannot be read.
    """
    found = record.get(event_id)
    recorded = record.explanation(event_id)
    served = None if recorded is None else recorded.explanation
    if served is None or not served.explanations:
        return Why(found, recorded, None, (), ())
    labels = {one.label: one for one in reversed(served.explanations)}
    one = labels.get(found.label or "", served.explanations[0])
    return Why(found, recorded, one, strongest_regions(served, one), doubts(served, one))


def _change(event: Event) -> str:
    if event.type == EventType.BACK:
        text = "It was there again"
    elif event.type == EventType.LOST:
        text = "It was lost"
    elif event.state == event.previous:
        text = f"The state stayed {event.state}"
    else:
        text = f"The state changed from {event.previous} to {event.state}"
    if event.label is not None:
        sure = "" if event.probability is None else f", probability {event.probability:.2f}"
        text += f": {event.label}{sure}"
    elif event.state == CameraState.UNKNOWN and event.reason:
        text += f": {_reason(event.reason)}"
    elif event.state == CameraState.CLEAR and event.type == EventType.STATE:
        text += ": nobody was there"
    if event.detail:
        text += f" ({event.detail})"
    if event.person is not None:
        text += f"; it is about person {event.person}"
        if event.people is not None:
            there = "1 person" if event.people == 1 else f"{event.people} people"
            text += f", with {there} there"
    return f"{text}."


def _reason(reason: str) -> str:
    try:
        return REASONS[UnknownReason(reason)]
    except ValueError:  # a newer limelens wrote it
        return reason.replace("_", " ")


def _votes(event: Event) -> str:
    votes = _evidence(event).votes
    if not votes:
        return "No frame brought this event."
    agreed = sum(vote.label == event.label for vote in votes)
    last = "The last frame" if len(votes) == 1 else f"Of the last {len(votes)} frames, {agreed}"
    return f"{last} said {event.label or 'nothing'}:"


def _rule(event: Event) -> Iterator[str]:
    rule = _evidence(event).rule
    if rule is None:
        return
    sure = "" if rule.threshold is None else f", each with a label of {rule.threshold:.2f} or more"
    yield (
        f"Needed were {rule.required_to_alert} of {rule.window} frames for an alert, and "
        f"{rule.required} of {rule.window} for anything else{sure}."
    )


def _model(event: Event) -> Iterator[str]:
    if event.model:
        on = f" on {event.provider}" if event.provider else ""
        yield f"The model was {event.model} version {event.version}{on}."


def _evidence(event: Event) -> Evidence:
    return event.evidence or Evidence(0, b"")
