"""Evidence and explanations as JSON documents, and back.

Whatever a later limelens adds to a document is left out by this one, and what an earlier one did
not write gets its default.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from limelens.serve.client.results import (
    ExplainSettings,
    ExplanationTimings,
    LabelExplanation,
    ModelRef,
    SegmentWeight,
    ServedExplanation,
)
from limelens.serve.decisions.decision import (
    Decision,
    FaceIssue,
    FacePrediction,
    Prediction,
    Score,
)
from limelens.serve.image import Region
from limelens.watch.event import DecisionRule, Evidence, FrameVote

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_T = TypeVar("_T")


def to_ms(time: datetime) -> int:
    """Milliseconds since 1970, UTC, as an event's document has them."""
    return (time - _EPOCH) // _MILLISECOND


def from_ms(milliseconds: int) -> datetime:
    """The time, UTC."""
    return _EPOCH + milliseconds * _MILLISECOND


def to_json(document: Any) -> str:
    """Compact JSON; numbers that are not finite become null, which SQLite's JSON needs."""
    return json.dumps(_finite(document), separators=(",", ":"), ensure_ascii=False)


def evidence_json(evidence: Evidence) -> str:
    """Evidence, without the frame's bytes."""
    rule = evidence.rule
    return to_json(
        {
            "frame_id": evidence.frame_id,
            "region": None if evidence.region is None else asdict(evidence.region),
            "faces": [_face_document(face) for face in evidence.faces],
            "votes": [
                {
                    "frame_id": vote.frame_id,
                    "time_ms": to_ms(vote.time),
                    "label": vote.label,
                    "scores": [[score.label, score.probability] for score in vote.scores],
                }
                for vote in evidence.votes
            ],
            "rule": None if rule is None else asdict(rule),
        }
    )


def evidence_of(text: str) -> Evidence:
    """The evidence of a document; without the frame's bytes."""
    found = json.loads(text)
    rule = found.get("rule")
    if rule is not None:
        rule = _made(DecisionRule, {**rule, "alert_labels": tuple(rule["alert_labels"])})
    return Evidence(
        frame_id=found["frame_id"],
        jpeg=b"",
        region=_region(found.get("region")),
        faces=tuple(_face(face) for face in found.get("faces", ())),
        votes=tuple(
            FrameVote(
                frame_id=vote["frame_id"],
                time=from_ms(vote["time_ms"]),
                label=vote["label"],
                scores=_scores(vote["scores"]),
            )
            for vote in found.get("votes", ())
        ),
        rule=rule,
    )


def explanation_json(found: ServedExplanation) -> str:
    """An explanation, without segments and renderings."""
    return to_json(
        {
            "explanations": [
                {
                    **{key: getattr(one, key) for key in _LABEL_KEYS},
                    "weights": [[w.segment, w.weight, w.std_error] for w in one.weights],
                }
                for one in found.explanations
            ],
            "num_segments": found.num_segments,
            "num_samples": found.num_samples,
            "seed": found.seed,
            "warnings": list(found.warnings),
            "model": asdict(found.model),
            "timings_ms": asdict(found.timings_ms),
            "method": found.method,
            "face": None if found.face is None else _face_document(found.face),
            "settings": None if found.settings is None else asdict(found.settings),
            "settings_from_model": list(found.settings_from_model),
        }
    )


def explanation_of(text: str, segments_png: bytes) -> ServedExplanation:
    """The explanation of a document, with its segments."""
    found = json.loads(text)
    settings = found.get("settings")
    if settings is not None:
        if isinstance(settings.get("hide"), list):
            settings["hide"] = tuple(settings["hide"])
        settings = _made(ExplainSettings, settings)
    face = found.get("face")
    return ServedExplanation(
        explanations=tuple(_label(one) for one in found["explanations"]),
        num_segments=found["num_segments"],
        num_samples=found["num_samples"],
        seed=found["seed"],
        warnings=tuple(found["warnings"]),
        segments_png=segments_png,
        model=_made(ModelRef, found["model"]),
        timings_ms=_made(ExplanationTimings, found["timings_ms"]),
        method=found["method"],
        face=None if face is None else _face(face),
        settings=settings,
        settings_from_model=tuple(found.get("settings_from_model", ())),
    )


_LABEL_KEYS: Final = (
    "label", "against", "probability", "baseline", "intercept", "local_prediction", "score",
    "stability",
)  # fmt: skip


def _label(one: Mapping[str, Any]) -> LabelExplanation:
    numbers = {
        key: _number(one.get(key))
        for key in ("probability", "intercept", "local_prediction", "score", "stability")
    }
    return LabelExplanation(
        label=one["label"],
        **numbers,
        weights=tuple(SegmentWeight(w[0], _number(w[1]), _number(w[2])) for w in one["weights"]),
        overlay_png=b"",
        heat_map_png=b"",
        against=one.get("against"),
        baseline=one.get("baseline"),
    )


def _face_document(face: FacePrediction) -> dict[str, Any]:
    prediction = face.prediction
    return {
        "box": asdict(face.box),
        "score": face.score,
        "decision": prediction.decision.value,
        "label": prediction.label,
        "labels": list(prediction.labels),
        "scores": [[score.label, score.probability] for score in prediction.scores],
        "threshold": prediction.threshold,
        "is_alert": prediction.alert,
        "macro_label": prediction.macro_label,
        "issue": None if face.issue is None else face.issue.value,
        "alert": face.alert,
        "person": face.person,
        "smoothed_label": face.smoothed_label,
        "changed": face.changed,
        "seen": face.seen,
    }


def _face(found: Mapping[str, Any]) -> FacePrediction:
    issue = found.get("issue")
    return FacePrediction(
        box=Region(**found["box"]),
        score=_number(found["score"]),
        prediction=Prediction(
            decision=Decision(found["decision"]),
            label=found["label"],
            labels=tuple(found["labels"]),
            alert=found["is_alert"],
            scores=_scores(found["scores"]),
            threshold=_number(found["threshold"]),
            macro_label=found.get("macro_label"),
        ),
        issue=None if issue is None else FaceIssue(issue),
        alert=found["alert"],
        person=found["person"],
        smoothed_label=found["smoothed_label"],
        changed=found["changed"],
        seen=found["seen"],
    )


def _scores(found: list[list[Any]]) -> tuple[Score, ...]:
    return tuple(Score(label, _number(probability)) for label, probability in found)


def _region(found: Mapping[str, float] | None) -> Region | None:
    return None if found is None else Region(**found)


def _made(kind: type[_T], found: Mapping[str, Any]) -> _T:
    """A dataclass of the keys that it knows."""
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in found.items() if key in known})


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if hasattr(value, "item"):  # a NumPy scalar
        return _finite(value.item())
    return value
