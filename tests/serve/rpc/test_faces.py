"""Faces in the images of Classify, against a real server with a real detector."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image
from tests.conftest import BundleMaker
from tests.detectors import BLUE, GREEN, MAGENTA, PALE, RED, frame_of, save_detector

from limelens.serve.bundle import Task
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import face_pb2, image_pb2, prediction_pb2

SMALL, MIDDLE, LARGE = (40, 80, 40), (560, 0, 80), (320, 160, 160)
"""Places in a frame of 480x640 where the detector finds squares: left, top, side."""


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_detector(tmp_path_factory.mktemp("detector")))


@pytest.fixture
def server(start_server: Callable[..., Any], detector: str) -> Any:
    return start_server(face_detector=detector)


def png(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def request_of(*images: np.ndarray | bytes | image_pb2.Image, **fields: Any) -> Any:
    def message(image: Any) -> image_pb2.Image:
        if isinstance(image, image_pb2.Image):
            return image
        data = image if isinstance(image, bytes) else png(image)
        return image_pb2.Image(encoded=data)

    fields = {"faces": face_pb2.FaceOptions(), **fields}
    return service_pb2.ClassifyRequest(images=[message(one) for one in images], **fields)


def classify(server: Any, *images: Any, **fields: Any) -> Any:
    return server.stub().Classify(request_of(*images, **fields), timeout=30).predictions


def box_of(face: prediction_pb2.Face, height: int = 480, width: int = 640) -> list[float]:
    box = face.box
    return [box.left * width, box.top * height, box.right * width, box.bottom * height]


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, str]:
    """The status of a call, the field that is wrong, and the message."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    field = ""
    status = rpc_status.from_call(caught.value)
    for detail in status.details if status is not None else ():
        found = error_details_pb2.BadRequest()
        if detail.Unpack(found):
            field = found.field_violations[0].field
    return caught.value.code(), field, caught.value.details() or ""


def test_each_face_gets_a_decision_and_the_worst_is_the_images(server: Any) -> None:
    frame = frame_of([(*SMALL, RED), (*MIDDLE, BLUE), (*LARGE, GREEN)])
    (prediction,) = classify(server, frame)
    assert [face.prediction.label for face in prediction.faces] == ["green", "blue", "red"]
    assert [face.alert for face in prediction.faces] == [False, False, True]
    boxes = [[320, 160, 480, 320], [560, 0, 640, 80], [40, 80, 80, 120]]
    assert np.array([box_of(face) for face in prediction.faces]) == pytest.approx(
        np.array(boxes), abs=0.01
    )
    assert all(face.score == pytest.approx(1.0, abs=0.1) for face in prediction.faces)
    assert (prediction.label, prediction.alert) == ("red", True)
    assert prediction.macro_label == "warm"
    assert prediction.scores == prediction.faces[2].prediction.scores


def test_a_face_that_is_not_decided_goes_before_those_that_are(server: Any) -> None:
    (prediction,) = classify(server, frame_of([(*LARGE, GREEN), (*MIDDLE, MAGENTA)]))
    assert [face.prediction.decision for face in prediction.faces] == [
        prediction_pb2.DECISION_LABEL,
        prediction_pb2.DECISION_ABSTAINED,
    ]
    assert prediction.decision == prediction_pb2.DECISION_ABSTAINED
    assert (prediction.label, prediction.alert) == ("", False)
    assert len(prediction.scores) == 3


def test_an_image_without_faces_says_so(server: Any) -> None:
    (prediction,) = classify(server, frame_of())
    assert prediction.decision == prediction_pb2.DECISION_NO_FACE
    assert not prediction.faces
    assert not prediction.scores
    assert not prediction.alert


def test_images_keep_their_order_and_their_faces(server: Any) -> None:
    frames = [
        frame_of([(*LARGE, colour)] * (i % 2)) for i, colour in enumerate([RED, GREEN, BLUE] * 4)
    ]
    labels = [one.label for one in classify(server, *frames)]
    assert labels == ["", "green", "", "red", "", "blue", "", "green", "", "red", "", "blue"]


def test_the_crop_is_what_the_classifier_asks_for(
    start_server: Callable[..., Any], detector: str, bundles: BundleMaker, tmp_path: Path
) -> None:
    bundles.save(tmp_path, replace(bundles.metadata(), crop=0.0))
    server = start_server(tmp_path, face_detector=detector)
    (prediction,) = classify(server, frame_of([(*LARGE, RED)]))
    pure = bundles.probabilities(np.full((8, 8, 3), RED, np.uint8), Task.MULTICLASS)
    assert prediction.scores[0].probability == pytest.approx(pure[0], abs=1e-3)
    # Without one, 0.35 of the face is added on each side.
    (wider,) = classify(start_server(face_detector=detector), frame_of([(*LARGE, RED)]))
    crop = frame_of([(56, 56, 160, RED)], 272, 272)
    expected = bundles.probabilities(crop, Task.MULTICLASS)
    assert wider.scores[0].probability == pytest.approx(expected[0], abs=2e-3)


def test_multilabel_models_decide_about_faces_too(
    start_server: Callable[..., Any], detector: str, models: Path
) -> None:
    server = start_server(models, face_detector=detector)
    frame = frame_of([(*LARGE, (255, 130, 255)), (*MIDDLE, GREEN)])
    options = face_pb2.FaceOptions(threshold=0.3)
    (prediction,) = classify(server, frame, model="tags", threshold=0.5, faces=options)
    assert list(prediction.faces[0].prediction.labels) == []
    frame = frame_of([(*LARGE, RED)])
    (prediction,) = classify(server, frame, model="tags", threshold=0.3)
    assert list(prediction.labels) == ["red"]
    assert prediction.alert


def test_faces_are_looked_for_in_the_region_of_interest(server: Any) -> None:
    region = image_pb2.RegionOfInterest(left=0.5, top=0.25, right=1.0, bottom=0.75)
    frame = frame_of([(*SMALL, RED), (400, 200, 80, GREEN)])
    (prediction,) = classify(server, image_pb2.Image(encoded=png(frame), region_of_interest=region))
    (face,) = prediction.faces
    assert prediction.label == "green"
    assert box_of(face) == pytest.approx([400, 200, 480, 280], abs=0.01)


def test_only_as_many_and_as_large_faces_as_are_asked_for(server: Any) -> None:
    frame = frame_of([(*SMALL, RED), (*MIDDLE, BLUE), (*LARGE, GREEN)])
    (one,) = classify(server, frame, faces=face_pb2.FaceOptions(max_faces=1))
    assert [face.prediction.label for face in one.faces] == ["green"]
    (large,) = classify(server, frame, faces=face_pb2.FaceOptions(min_size_px=60))
    assert [face.prediction.label for face in large.faces] == ["green", "blue"]
    (surer,) = classify(server, frame_of([(*LARGE, PALE)]), faces=face_pb2.FaceOptions(threshold=1))
    assert surer.decision == prediction_pb2.DECISION_NO_FACE
    (any_,) = classify(
        server, frame_of([(*LARGE, PALE)]), faces=face_pb2.FaceOptions(threshold=0.2)
    )
    assert len(any_.faces) == 1


def test_a_face_that_cannot_be_judged_abstains_and_says_why(server: Any) -> None:
    options = face_pb2.FaceOptions(min_size_px=8)
    # The whole of it is found, at an eighth of the frame's size.
    tiny = np.asarray(Image.fromarray(frame_of([(*LARGE, RED)])).resize((80, 60), 0))
    (prediction,) = classify(server, tiny, faces=options)
    (face,) = prediction.faces
    assert face.issue == prediction_pb2.FACE_ISSUE_TOO_SMALL
    assert face.prediction.decision == prediction_pb2.DECISION_ABSTAINED
    assert not face.prediction.scores
    assert prediction.decision == prediction_pb2.DECISION_ABSTAINED
    assert not prediction.alert
