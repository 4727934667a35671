"""Faces in the images of Classify, against a real server with a real detector."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.conftest import BundleMaker
from tests.detectors import BLUE, GREEN, MAGENTA, PALE, RED, frame_of, save_detector
from tests.serve.rpc.conftest import Gate, refused
from tests.waiting import until

from limelens.serve.bundle import Task
from limelens.serve.faces import detector as detector_module
from limelens.serve.rpc.server_config import ServiceSettings
from limelens.serve.scheduling.inference import Priority
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
    return server.stub().Classify(request_of(*images, **fields), timeout=60).predictions


def box_of(face: prediction_pb2.Face, height: int = 480, width: int = 640) -> list[float]:
    box = face.box
    return [box.left * width, box.top * height, box.right * width, box.bottom * height]


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


NAN = float("nan")


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"min_size_px": 7}, "faces.min_size_px", "7; expected 8 to 4096, or 0 for 24"),
        ({"min_size_px": -1}, "faces.min_size_px", "-1; expected 8 to 4096"),
        ({"min_size_px": 5000}, "faces.min_size_px", "5000; expected 8 to 4096"),
        ({"threshold": 0.0}, "faces.threshold", "0; expected over 0 to 1"),
        ({"threshold": 1.5}, "faces.threshold", "1.5; expected over 0 to 1"),
        ({"threshold": NAN}, "faces.threshold", "nan; expected over 0 to 1"),
        ({"max_faces": 21}, "faces.max_faces", "21; expected 1 to 20, or 0 for 20"),
        ({"max_faces": -1}, "faces.max_faces", "-1; expected 1 to 20"),
        ({"detect_every": 2}, "faces.detect_every", "only streams follow people"),
        ({"skip_still_frames": True}, "faces.skip_still_frames", "only streams"),
        ({"max_unseen_ms": 5}, "faces.max_unseen_ms", "only streams"),
    ],
)
def test_a_wrong_option_is_named(
    server: Any, fields: dict[str, Any], field: str, words: str
) -> None:
    error, details = refused(
        lambda: classify(server, frame_of(), faces=face_pb2.FaceOptions(**fields))
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details["BadRequest"].field_violations
    assert violation.field == field
    assert words in violation.description


def test_faces_have_no_vectors(server: Any) -> None:
    error, details = refused(lambda: classify(server, frame_of(), return_embedding=True))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field == "return_embedding"


def test_an_unreadable_image_is_named_and_harms_no_other_call(server: Any) -> None:
    truncated = png(frame_of([(*LARGE, RED)]))[:300]
    error, details = refused(lambda: classify(server, frame_of(), truncated))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field == "images[1].encoded"
    assert classify(server, frame_of([(*LARGE, RED)]))[0].alert


def test_slow_images_are_decoded_apart_and_give_the_same(server: Any) -> None:
    frame = frame_of([(80, 160, 80, RED), (640, 320, 320, GREEN)], 960, 1280)
    slow = png(frame, compress_level=0)
    assert len(slow) > 2 * 1024 * 1024  # so large that it is not even inspected at once
    quick, apart = classify(server, frame, slow)
    assert quick == apart
    assert len(apart.faces) == 2


def test_a_server_without_a_detector_says_so(start_server: Callable[..., Any]) -> None:
    server = start_server(face_detector="none")
    error, _ = refused(lambda: classify(server, frame_of()))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "--face-detector none" in (error.details() or "")


def test_a_server_whose_default_detector_is_missing_classifies_whole_images(
    start_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(detector_module, "DEFAULT_PATH", tmp_path / "model.onnx")
    server = start_server(face_detector="default")
    for _ in range(2):
        error, _ = refused(lambda: classify(server, frame_of()))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "--face-detector centerface" in (error.details() or "")
    request = service_pb2.ClassifyRequest(
        images=[image_pb2.Image(encoded=png(np.full((8, 8, 3), RED, np.uint8)))]
    )
    assert server.stub().Classify(request).predictions[0].label == "red"


def test_faces_of_accepted_images_are_not_refused(
    start_server: Callable[..., Any], detector: str
) -> None:
    server = start_server(face_detector=detector, service=ServiceSettings(max_queue=1))
    frame = frame_of([(*SMALL, RED), (*MIDDLE, BLUE), (*LARGE, GREEN)])
    assert len(classify(server, frame)[0].faces) == 3
    assert server.counts().refused == 0


def test_pixels_are_held_for_as_many_images_as_memory_allows(
    start_server: Callable[..., Any], detector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame takes 0.9 MB decoded, and far less before."""
    server = start_server(face_detector=detector, service=ServiceSettings(max_waiting_bytes=10**6))
    engine, groups = server.engine(), []
    classify_all = engine.classify

    async def noted(bundle: Any, images: Any, **options: Any) -> Any:
        groups.append((bundle.name, len(images)))
        return await classify_all(bundle, images, **options)

    monkeypatch.setattr(engine, "classify", noted)
    labels = [one.label for one in classify(server, *[frame_of([(*LARGE, RED)])] * 3)]
    assert labels == ["red"] * 3
    assert groups == [("squares", 1), ("colours", 1)] * 3


def test_a_camera_does_not_wait_for_the_pixels_of_requests(
    start_server: Callable[..., Any], detector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame takes 0.9 MB decoded, and the request's holds them while it waits for its faces."""
    server = start_server(face_detector=detector, service=ServiceSettings(max_waiting_bytes=10**6))
    engine, begun, goes_on = server.engine(), threading.Event(), threading.Event()
    classify_all = engine.classify

    async def held(bundle: Any, images: Any, **options: Any) -> Any:
        if options.get("priority", Priority.REQUEST) is Priority.REQUEST:
            begun.set()
            await asyncio.to_thread(goes_on.wait, 120)
        return await classify_all(bundle, images, **options)

    monkeypatch.setattr(engine, "classify", held)
    frame = frame_of([(*LARGE, RED)])
    request = server.stub().Classify.future(request_of(frame))
    assert begun.wait(60)
    messages = [
        service_pb2.ClassifyStreamRequest(
            config=service_pb2.StreamConfig(camera_id="door", faces=face_pb2.FaceOptions())
        ),
        service_pb2.ClassifyStreamRequest(
            frame=service_pb2.Frame(frame_id=0, image=image_pb2.Image(encoded=png(frame)))
        ),
    ]
    (answer,) = server.stub().ClassifyStream(iter(messages), timeout=60)
    assert answer.prediction.label == "red"
    assert not request.done()
    goes_on.set()
    assert request.result().predictions[0].label == "red"


def test_a_deadline_that_passes_in_the_queue_ends_the_call_unrun(server: Any, gate: Gate) -> None:
    stub = server.stub()
    held = gate.close(lambda: stub.Classify.future(request_of(frame_of())))
    run_before = server.counts().run
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(request_of(frame_of([(*LARGE, RED)])), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.opened.set()
    for one in held:
        one.result()
    until(lambda: server.engine().num_queued == 0)
    assert server.counts().run == run_before + 2


def test_a_call_that_is_cancelled_between_the_networks_frees_its_place(
    server: Any, gate: Gate
) -> None:
    stub, frame = server.stub(), frame_of([(*SMALL, RED), (*MIDDLE, BLUE), (*LARGE, GREEN)])
    calls = gate.close(lambda: stub.Classify.future(request_of(frame)))
    for one in calls:
        one.cancel()
    gate.opened.set()
    until(lambda: server.server.runner.shares.total == 0)
    until(lambda: server.engine().num_queued == 0)
    assert len(classify(server, frame)[0].faces) == 3


def test_a_detector_whose_numbers_are_not_finite_fails_the_call_alone(server: Any) -> None:
    white = np.full((480, 640, 3), 255, np.uint8)
    for _ in range(30):  # a classifier that failed so often would be rolled back
        error, _ = refused(lambda: classify(server, white))
        assert error.code() is grpc.StatusCode.INTERNAL
    assert "squares gave values that are not finite" in (error.details() or "")
    assert classify(server, frame_of([(*LARGE, RED)]))[0].alert
    assert server.counts().not_finite == 30


def test_metrics_count_faces_and_decisions_about_images(
    start_server: Callable[..., Any], detector: str
) -> None:
    server = start_server(face_detector=detector, http="127.0.0.1:0")
    frame = frame_of([(*SMALL, RED), (*MIDDLE, BLUE), (*LARGE, GREEN)])
    classify(server, frame, frame_of())
    with urlopen(f"http://{server.server.http.address}/metrics") as response:
        lines = response.read().decode().splitlines()
    assert 'limelens_faces_total{issue="none"} 3.0' in lines
    assert 'limelens_faces_total{issue="blurred"} 0.0' in lines
    assert 'limelens_decisions_total{label="red",model="colours"} 1.0' in lines
    assert 'limelens_alerts_total{model="colours",source="request"} 1.0' in lines
    assert 'limelens_abstentions_total{model="colours"} 0.0' in lines
    assert any(line.startswith('limelens_run_seconds_count{model="squares"} 2') for line in lines)
