"""Evidence and explanations come back from JSON as they were."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

from tests.watch.record.made import explanation

from limelens.serve.decisions.decision import (
    Decision,
    FaceIssue,
    FacePrediction,
    Prediction,
    Score,
)
from limelens.serve.image import Region
from limelens.watch.event import DecisionRule, Evidence, FrameVote
from limelens.watch.record.documents import (
    evidence_json,
    evidence_of,
    explanation_json,
    explanation_of,
)

SCORES = (Score("without_mask", 0.75), Score("with_mask", 0.25))
JUDGED = Prediction(Decision.LABEL, "without_mask", ("a", "b"), True, SCORES, 0.5, "bare")
NOT_JUDGED = Prediction(Decision.ABSTAINED, None, (), False, (), 0.5, None)
FACE = FacePrediction(
    Region(0.1, 0.2, 0.3, 0.4), 0.9, JUDGED, None, True, 3, "without_mask", True, False
)
FACES = (FACE, FacePrediction(Region(0, 0, 1, 1), 0.5, NOT_JUDGED, FaceIssue.BLURRED))
EVIDENCE = Evidence(
    frame_id=7,
    jpeg=b"",
    region=Region(0, 0.5, 1, 1),
    faces=FACES,
    votes=(FrameVote(7, datetime(2026, 3, 1, 8, 0, 0, 250_000, UTC), None, SCORES),),
    rule=DecisionRule(None, 5, 4, 2, ("without_mask",)),
)


def test_evidence_comes_back() -> None:
    assert evidence_of(evidence_json(replace(EVIDENCE, jpeg=b"not kept"))) == EVIDENCE
    assert evidence_of(evidence_json(Evidence(1, b""))) == Evidence(1, b"")


def test_what_a_later_limelens_adds_is_left_out() -> None:
    document = json.loads(evidence_json(EVIDENCE))
    document["added"] = document["rule"]["added"] = document["faces"][0]["added"] = 1
    assert evidence_of(json.dumps(document)) == EVIDENCE


def test_an_explanation_of_a_face_comes_back() -> None:
    found = explanation("x").explanation
    assert found is not None
    (one,) = found.explanations
    odd = replace(
        found,
        face=FACE,
        explanations=(replace(one, against="with_mask", score=math.nan, baseline=None),),
        settings=None,
    )
    back = explanation_of(explanation_json(odd), b"segments")
    assert back.face == FACE
    assert back.segments_png == b"segments"
    assert math.isnan(back.explanations[0].score)
    assert back.explanations[0].against == "with_mask"
    assert back.explanations[0].weights == one.weights
