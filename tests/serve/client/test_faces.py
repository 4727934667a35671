"""Faces in the client: options as messages, and messages as plain values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from limelens.serve import FaceOptions, FacePrediction, InvalidRequestError, Prediction, Region
from limelens.serve.client.feeding import Feed
from limelens.serve.client.requests import Frame, classify_request, explain_request, stream_config
from limelens.serve.client.responses import classification, frame_answer, served_explanation
from limelens.serve.client.results import CameraState, FrameStatus
from limelens.serve.decisions.decision import Decision, FaceIssue, Score
from limelens.serve.errors import UnavailableError
from limelens.serve.rpc.responses import face_message, prediction_message
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import face_pb2, prediction_pb2

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
UNKNOWN = Prediction(Decision.ABSTAINED, None, (), False, (), 0.5, None)
BARE = Prediction(
    Decision.LABEL, "bare", (), True, (Score("bare", 0.75), Score("masked", 0.25)), 0.5, None
)
AT = Region(0.25, 0.125, 0.5, 0.75)
CUT_OFF = FacePrediction(Region(0, 0, 0.125, 0.25), 0.5, UNKNOWN, issue=FaceIssue.CUT_OFF)
PERSON = FacePrediction(
    AT, 0.75, BARE, alert=True, person=7, smoothed_label="bare", changed=True, seen=False
)


def test_predictions_with_faces_come_back_as_they_were_sent() -> None:
    for faces in ((), (PERSON, CUT_OFF)):
        prediction = replace(BARE, faces=faces)
        nobody = replace(UNKNOWN, decision=Decision.NO_FACE)
        response = service_pb2.ClassifyResponse(
            predictions=[prediction_message(prediction), prediction_message(nobody)]
        )
        assert list(classification(response)) == [prediction, nobody]


def test_a_decision_or_an_issue_of_a_newer_server_is_none_that_is_known() -> None:
    message = face_message(CUT_OFF)
    message.issue = 99  # type: ignore[assignment]
    message.prediction.decision = 99  # type: ignore[assignment]
    (found,) = classification(
        service_pb2.ClassifyResponse(predictions=[prediction_pb2.Prediction(faces=[message])])
    )
    assert found.faces == (replace(CUT_OFF, issue=None),)


def test_a_frame_has_its_people_and_the_smoothed_decision() -> None:
    response = service_pb2.ClassifyStreamResponse(
        status=service_pb2.FRAME_STATUS_CLASSIFIED,
        prediction=prediction_message(replace(BARE, faces=(PERSON,))),
        smoothed_label="bare",
        smoothed_decision=prediction_pb2.DECISION_LABEL,
    )
    answer = frame_answer(response)
    assert answer.faces == (PERSON,)
    assert answer.smoothed_decision is Decision.LABEL
    response.ClearField("prediction")
    assert frame_answer(response).faces == ()
    response.smoothed_decision = prediction_pb2.DECISION_NO_FACE
    assert frame_answer(response).smoothed_decision is Decision.NO_FACE


@pytest.mark.parametrize(("label", "decision"), [("bare", "label"), ("", "abstained")])
def test_the_smoothed_decision_of_an_older_server_follows_from_its_label(
    label: str, decision: str
) -> None:
    answer = frame_answer(service_pb2.ClassifyStreamResponse(smoothed_label=label))
    assert answer.smoothed_decision == decision
    assert answer.state is (CameraState.CLEAR if label else CameraState.UNKNOWN)


def test_a_state_of_a_newer_server_is_no_clearance() -> None:
    response = service_pb2.ClassifyStreamResponse(
        smoothed_label="bare", smoothed_decision=prediction_pb2.DECISION_LABEL
    )
    response.state = 99  # type: ignore[assignment]
    assert frame_answer(response).state is CameraState.UNKNOWN


def test_an_explanation_names_its_face_and_a_change_its_person() -> None:
    explained = service_pb2.ExplainResponse(face=face_message(PERSON))
    assert served_explanation(explained).face == PERSON
    assert served_explanation(service_pb2.ExplainResponse()).face is None
    change = service_pb2.ChangeExplanation(person=7, explanation=explained)
    explanation = frame_answer(service_pb2.ClassifyStreamResponse(explanation=change)).explanation
    assert explanation is not None
    assert explanation.person == 7


def test_faces_are_asked_for_in_every_request_and_only_if_wanted() -> None:
    chosen = FaceOptions(
        min_size_px=48, threshold=0.5, max_faces=3, detect_every=2, skip_still_frames=True,
        max_unseen_s=1.5,
    )  # fmt: skip
    whole = face_pb2.FaceOptions(
        min_size_px=48, threshold=0.5, max_faces=3, detect_every=2, skip_still_frames=True,
        max_unseen_ms=1500,
    )  # fmt: skip
    usual = face_pb2.FaceOptions()
    for faces, sent in ((chosen, whole), (True, usual), (FaceOptions(), usual), (False, None)):
        requests = (
            classify_request(RED, faces=faces),
            explain_request(RED, faces=faces),
            stream_config(faces=faces).config,
        )
        for request in requests:
            assert (request.faces if request.HasField("faces") else None) == sent
    assert not classify_request(RED).HasField("faces")


def test_the_first_face_differs_from_no_face_named() -> None:
    assert not explain_request(RED, faces=True).HasField("face")
    request = explain_request(RED, faces=True, face=0)
    assert request.HasField("face")
    assert request.face == 0
    with pytest.raises(InvalidRequestError, match=r"explain_on_change\.face: .*the stream's own"):
        stream_config(faces=True, explain_on_change={"face": 0})


def test_a_frame_that_was_given_up_keeps_what_was_decided() -> None:
    feed = Feed(drop_old=True)
    feed.put(RED)
    feed.take()
    nobody = service_pb2.ClassifyStreamResponse(
        frame_id=0,
        status=service_pb2.FRAME_STATUS_CLASSIFIED,
        smoothed_decision=prediction_pb2.DECISION_NO_FACE,
    )
    feed.received(frame_answer(nobody))
    feed.put(RED)
    feed.put(RED)
    (given_up,) = feed.take_given_up()
    assert (given_up.status, given_up.smoothed_decision) == (FrameStatus.SUPERSEDED, "no_face")
    assert given_up.state is CameraState.CLEAR


def test_a_frame_that_was_given_up_tells_the_whole_decision_that_was_told_last() -> None:
    feed = Feed(drop_old=True)
    feed.put(RED)
    feed.put(RED)
    alert = service_pb2.ClassifyStreamResponse(
        frame_id=0,
        status=service_pb2.FRAME_STATUS_CLASSIFIED,
        smoothed_label="bare",
        smoothed_decision=prediction_pb2.DECISION_LABEL,
        alert=True,
        state=service_pb2.CAMERA_STATE_ALERT,
    )
    told = feed.received(frame_answer(alert))
    feed.put(RED)
    told += feed.take_given_up()
    assert [(one.smoothed_label, one.alert, one.state) for one in told] == [
        (None, False, CameraState.UNKNOWN),
        ("bare", True, CameraState.ALERT),
        ("bare", True, CameraState.ALERT),
    ]


def test_nothing_is_known_once_the_server_is_lost() -> None:
    feed = Feed(drop_old=True, tells_loss=True)
    bare = service_pb2.ClassifyStreamResponse(
        frame_id=0,
        status=service_pb2.FRAME_STATUS_CLASSIFIED,
        smoothed_label="bare",
        state=service_pb2.CAMERA_STATE_CLEAR,
    )
    assert [one.state for one in feed.received(frame_answer(bare))] == [CameraState.CLEAR]
    feed.put(Frame(5, RED))
    feed.take()
    feed.put(Frame(6, RED))
    feed.put(Frame(7, RED))  # given up while its server seemed well
    for _ in range(2):
        assert feed.pause_after(UnavailableError("gone")) is not None
    feed.put(Frame(8, RED))
    told = feed.take_given_up()
    assert [(one.status, one.frame_id) for one in told] == [
        (FrameStatus.SUPERSEDED, 6), (FrameStatus.LOST, 5), (FrameStatus.SERVER_LOST, 0),
        (FrameStatus.SUPERSEDED, 7),
    ]  # fmt: skip
    assert {one.state for one in told} == {CameraState.UNKNOWN}
    assert told[2].reason == "gone"


def test_after_a_new_connection_nobody_there_differs_from_unknown() -> None:
    feed = Feed(drop_old=True)
    unknown, nobody = (
        frame_answer(service_pb2.ClassifyStreamResponse(smoothed_decision=decision))
        for decision in (prediction_pb2.DECISION_ABSTAINED, prediction_pb2.DECISION_NO_FACE)
    )
    feed.received(unknown)
    assert feed.pause_after(UnavailableError("gone")) is not None
    (same,) = feed.received(unknown)
    assert not same.changed
    assert feed.pause_after(UnavailableError("gone")) is not None
    (other,) = feed.received(nobody)
    assert other.changed
