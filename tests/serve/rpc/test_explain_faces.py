"""Explain and ExplainStream of a face in an image, against a real server with a real detector."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.detectors import BLUE, GREEN, MAGENTA, RED, frame_of, save_detector
from tests.serve.rpc.conftest import refused

from limelens.serve.image import UNSEEN
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import explanation_pb2, face_pb2, image_pb2, prediction_pb2

pytest.importorskip("skimage")

SMALL, MIDDLE, LARGE = (40, 80, 40), (560, 0, 80), (320, 160, 160)
FRAME = frame_of([(*SMALL, RED), (*MIDDLE, BLUE), (*LARGE, GREEN)])


@pytest.fixture
def server(start_server: Callable[..., Any], tmp_path: Path) -> Any:
    return start_server(face_detector=str(save_detector(tmp_path / "detector")))


def request_of(frame: np.ndarray, **fields: Any) -> service_pb2.ExplainRequest:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    grid = explanation_pb2.Segmentation(
        method=explanation_pb2.SEGMENTATION_METHOD_GRID, num_segments=16
    )
    fields = {"faces": face_pb2.FaceOptions(), **fields}
    return service_pb2.ExplainRequest(
        image=image_pb2.Image(encoded=file.getvalue()),
        segmentation=grid,
        num_samples=200,
        seed=1,
        **fields,
    )


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_worst_face_is_explained_and_shown_in_the_image(server: Any) -> None:
    pictures = [explanation_pb2.PICTURE_SEGMENTS, explanation_pb2.PICTURE_OVERLAY]
    found = server.stub().Explain(request_of(FRAME, pictures=pictures))
    assert found.face.prediction.label == "red"
    assert found.face.alert
    assert found.face.box.left * 640 == pytest.approx(40, abs=0.01)
    (explanation,) = found.explanations
    assert explanation.label == "red"
    assert explanation.probability == pytest.approx(
        found.face.prediction.scores[0].probability, abs=1e-4
    )
    # 0.35 of the face's 40 pixels are added on each side.
    segments = opened(found.segments_png)
    assert segments.shape == (480, 640)
    rows, columns = np.nonzero(segments != UNSEEN)
    edges = [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
    assert edges == [66, 134, 26, 94]
    assert opened(explanation.overlay_png).shape == (480, 640, 3)


def test_the_face_that_is_named_is_explained_as_classify_numbers_it(server: Any) -> None:
    classify = service_pb2.ClassifyRequest(
        images=[request_of(FRAME).image], faces=face_pb2.FaceOptions()
    )
    faces = server.stub().Classify(classify).predictions[0].faces
    for index, label in enumerate(["green", "blue", "red"]):
        found = server.stub().Explain(request_of(FRAME, face=index))
        assert found.explanations[0].label == label
        assert found.face == faces[index]


def test_steps_of_a_face_come_with_it(server: Any) -> None:
    steps = list(server.stub().ExplainStream(request_of(FRAME, face=1)))
    assert steps[-1].final
    assert {step.explanation.face.prediction.label for step in steps} == {"blue"}
    assert steps[-1].explanation.explanations[0].label == "blue"


def test_without_faces_the_image_is_explained(server: Any) -> None:
    found = server.stub().Explain(request_of(FRAME, faces=None))
    assert not found.HasField("face")


def test_an_undecided_face_goes_before_a_decided_one(server: Any) -> None:
    frame = frame_of([(*MIDDLE, MAGENTA), (*LARGE, GREEN)])
    found = server.stub().Explain(request_of(frame))
    assert found.face.prediction.decision == prediction_pb2.DECISION_ABSTAINED


TINY = np.asarray(Image.fromarray(frame_of([(*LARGE, RED)])).resize((80, 60), 0))
TINIEST = face_pb2.FaceOptions(min_size_px=8)


@pytest.mark.parametrize(
    ("frame", "fields", "field", "words"),
    [
        (frame_of(), {}, "faces", "there is no face in the image"),
        (FRAME, {"face": 3}, "face", "3; expected 0 to 2: 3 were found"),
        (FRAME, {"face": -1}, "face", "-1; expected 0 to 19"),
        (FRAME, {"face": 20}, "face", "20; expected 0 to 19"),
        (FRAME, {"face": 0, "faces": None}, "face", "without faces"),
        (FRAME, {"faces": face_pb2.FaceOptions(max_faces=50)}, "faces.max_faces", "1 to 20"),
        (TINY, {"faces": TINIEST}, "faces", "of 1 found none can be judged: too small"),
        (TINY, {"faces": TINIEST, "face": 0}, "face", "0 is too small and cannot be judged"),
    ],
)
def test_a_face_that_is_not_there_is_an_error_of_its_field(
    server: Any, frame: np.ndarray, fields: dict[str, Any], field: str, words: str
) -> None:
    error, details = refused(lambda: server.stub().Explain(request_of(frame, **fields)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details["BadRequest"].field_violations
    assert violation.field == field
    assert words in violation.description
    stream = server.stub().ExplainStream
    error, _ = refused(lambda: list(stream(request_of(frame, **fields))))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_server_without_a_detector_says_so(start_server: Callable[..., Any]) -> None:
    server = start_server(face_detector="none")
    error, _ = refused(lambda: server.stub().Explain(request_of(FRAME)))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_changes_of_a_stream_name_no_faces_of_their_own(server: Any) -> None:
    options = service_pb2.ExplainRequest(faces=face_pb2.FaceOptions())
    config = service_pb2.StreamConfig(
        camera_id="door", explain_on_change=service_pb2.ExplainOnChange(options=options)
    )
    messages = [service_pb2.ClassifyStreamRequest(config=config)]
    error, details = refused(lambda: list(server.stub().ClassifyStream(iter(messages))))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    field = details["BadRequest"].field_violations[0].field
    assert field == "config.explain_on_change.options.faces"
