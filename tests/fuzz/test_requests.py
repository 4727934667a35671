"""For any request the server responds or refuses as the contract says, and goes on."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.detectors import GREEN as GREEN_SQUARE
from tests.detectors import MAGENTA as MAGENTA_SQUARE
from tests.detectors import RED as RED_SQUARE
from tests.detectors import frame_of

from fuzz.calling import Caller, CallResult, can_be_parsed, is_finite, names_a_field
from fuzz.effort import examples
from fuzz.images import HEIGHT, WIDTH, bad_images, good_images
from fuzz.messages import Usable, broken, choice, messages, spoilt
from limelens.v1 import classifier_service_pb2 as pb2
from limelens.v1 import explanation_pb2, face_pb2, image_pb2, prediction_pb2

SERVICE = pb2.DESCRIPTOR.services_by_name["ClassifierService"]
METHODS: Mapping[str, Any] = SERVICE.methods_by_name
LABELS = ("red", "green", "blue")
GOOD, BAD = good_images(), bad_images()
RED = 1 / (1 + 2 * math.exp(-6))
"""What the model says of red; see tests/conftest.py."""
NEWS = (pb2.FRAME_STATUS_EXPLANATION, pb2.FRAME_STATUS_DECISION_EXPIRED)
"""They answer no frame."""
FRAME_STATUSES = {
    status.number for status in pb2.DESCRIPTOR.enum_types_by_name["FrameStatus"].values
}


def segments() -> bytes:
    ids = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) // 40
    file = io.BytesIO()
    Image.fromarray(ids).save(file, "PNG")
    return file.getvalue()


@st.composite
def raw_images(draw: st.DrawFn) -> image_pb2.RawImage:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    value = draw(st.integers(0, 255))
    return image_pb2.RawImage(
        data=bytes([value]) * (height * width * 3), height=height, width=width
    )


def frames_with_faces() -> st.SearchStrategy[image_pb2.RawImage]:
    """Frames of 96x128 in which the tests' detector finds up to two faces."""
    left = st.sampled_from(((8, 16, 8, RED_SQUARE), (16, 32, 16, GREEN_SQUARE)))
    right = st.sampled_from(((80, 64, 16, RED_SQUARE), (96, 64, 32, MAGENTA_SQUARE)))
    squares = st.builds(lambda *both: both, left, right)

    def message(found: Any) -> image_pb2.RawImage:
        pixels = frame_of(found, 96, 128)
        return image_pb2.RawImage(data=pixels.tobytes(), height=96, width=128)

    return (squares | left.map(lambda one: (one,))).map(message)


def regions() -> st.SearchStrategy[image_pb2.RegionOfInterest]:
    near, far = st.floats(0, 0.5, width=32), st.floats(0.625, 1, width=32)
    return st.builds(image_pb2.RegionOfInterest, left=near, top=near, right=far, bottom=far)


IMAGES = st.builds(
    image_pb2.Image,
    encoded=choice(list(GOOD.values())),
    region_of_interest=st.none() | regions(),
) | st.builds(
    image_pb2.Image,
    raw=raw_images() | frames_with_faces(),
    region_of_interest=st.none() | regions(),
)
MODEL = st.sampled_from(("colours", "tags"))
VERSION = st.sampled_from((0, 0, 1))
TOP_K = st.integers(0, 3)
THRESHOLD = st.none() | st.floats(0, 1, width=32)


def seldom(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly unset: what few callers set seldom goes together with the rest."""
    return st.integers(0, 3).flatmap(lambda number: values if number == 0 else st.none())


FACES = {
    "min_size_px": st.sampled_from((0, 8, 30)),
    "threshold": st.none() | st.floats(0.25, 1, width=32),
    "max_faces": st.integers(0, 20),
}
PEOPLE = {
    **FACES,
    "detect_every": st.integers(0, 3),
    "skip_still_frames": st.booleans(),
    "max_unseen_ms": st.sampled_from((0, 1, 60_000)),
}
VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "limelens.v1.Image": IMAGES,
    "limelens.v1.RegionOfInterest": regions(),
    "limelens.v1.ClassifyRequest.model": MODEL,
    "limelens.v1.ClassifyRequest.version": VERSION,
    "limelens.v1.ClassifyRequest.images": st.lists(IMAGES, min_size=1, max_size=3),
    "limelens.v1.ClassifyRequest.top_k": TOP_K,
    "limelens.v1.ClassifyRequest.threshold": THRESHOLD,
    "limelens.v1.ClassifyRequest.return_embedding": st.booleans(),
    "limelens.v1.ClassifyRequest.faces": seldom(st.builds(face_pb2.FaceOptions, **FACES)),
    "limelens.v1.StreamConfig.faces": seldom(st.builds(face_pb2.FaceOptions, **PEOPLE)),
    "limelens.v1.ExplainRequest.faces": seldom(st.builds(face_pb2.FaceOptions, **FACES)),
    "limelens.v1.ExplainRequest.face": seldom(st.integers(0, 1)),
    "limelens.v1.EmbedRequest.model": MODEL,
    "limelens.v1.EmbedRequest.version": VERSION,
    "limelens.v1.EmbedRequest.images": st.lists(IMAGES, min_size=1, max_size=3),
    "limelens.v1.EmbedRequest.normalize": st.booleans(),
    "limelens.v1.GetModelRequest.model": MODEL,
    "limelens.v1.GetModelRequest.version": VERSION,
    "limelens.v1.StreamConfig.camera_id": st.just("door"),
    "limelens.v1.StreamConfig.model": MODEL,
    "limelens.v1.StreamConfig.version": VERSION,
    "limelens.v1.StreamConfig.top_k": TOP_K,
    "limelens.v1.StreamConfig.threshold": THRESHOLD,
    "limelens.v1.StreamConfig.max_frame_age_ms": st.sampled_from((0, 1, 10_000)),
    "limelens.v1.StreamConfig.max_decision_age_ms": st.sampled_from((0, 10_000)),
    "limelens.v1.StreamConfig.explain_on_change": seldom(
        st.builds(
            lambda hide, alerts_only: pb2.ExplainOnChange(
                options=pb2.ExplainRequest(num_samples=10, hide=hide), alerts_only=alerts_only
            ),
            st.sampled_from((None, explanation_pb2.Hide(blur=True))),
            st.booleans(),
        )
    ),
    "limelens.v1.Smoothing": st.sampled_from(
        [
            pb2.Smoothing(window=window, required=window, required_to_alert=required_to_alert)
            for window in (1, 3, 1000)
            for required_to_alert in (0, 1)
        ]
    ),
    "limelens.v1.Frame.frame_id": st.integers(0, 5),
    "limelens.v1.Frame.image": IMAGES,
    "limelens.v1.ExplainRequest.model": MODEL,
    "limelens.v1.ExplainRequest.version": VERSION,
    "limelens.v1.ExplainRequest.image": IMAGES,
    "limelens.v1.ExplainRequest.labels": seldom(
        st.lists(st.sampled_from(LABELS), max_size=3, unique=True)
    ),
    "limelens.v1.ExplainRequest.top_labels": seldom(st.integers(0, 3)),
    "limelens.v1.ExplainRequest.method": seldom(st.integers(0, 4)),
    "limelens.v1.ExplainRequest.num_samples": seldom(st.integers(10, 50)),
    "limelens.v1.ExplainRequest.kernel_width": seldom(st.floats(1e-9, 1e6)),
    "limelens.v1.ExplainRequest.distance": st.integers(0, 2),
    "limelens.v1.ExplainRequest.feature_selection": seldom(st.integers(0, 5)),
    "limelens.v1.ExplainRequest.num_features": seldom(st.integers(0, 20)),
    "limelens.v1.ExplainRequest.seed": seldom(st.integers(0, 2**32 - 1)),
    "limelens.v1.ExplainRequest.sampling": seldom(st.integers(0, 2)),
    "limelens.v1.ExplainRequest.compat": seldom(st.just(1)),
    "limelens.v1.ExplainRequest.pictures": st.lists(st.integers(1, 3), max_size=2),
    "limelens.v1.ExplainRequest.stability": seldom(st.floats(0.01, 1)),
    "limelens.v1.ExplainRequest.deadline_ms": seldom(st.sampled_from((1, 30, 100_000))),
    "limelens.v1.ExplainRequest.contrasts": seldom(
        st.just([explanation_pb2.Contrast(label="red", against="blue")])
    ),
    "limelens.v1.Segmentation.method": st.integers(0, 4),
    "limelens.v1.Segmentation.num_segments": seldom(st.sampled_from((2, 8, 1000))),
    "limelens.v1.Segmentation.compactness": seldom(st.floats(0.125, 1024, width=32)),
    "limelens.v1.Segmentation.segments_png": seldom(st.just(segments())),
    "limelens.v1.Hide.segment_mean": seldom(st.just(True)),
    "limelens.v1.Hide.color": seldom(st.integers(0, 0xFFFFFF)),
    "limelens.v1.Hide.blur": seldom(st.just(True)),
    "limelens.v1.Hide.shuffle": seldom(st.just(True)),
}
USABLE = Usable(VALUES)
UNARY = [name for name in sorted(METHODS) if not METHODS[name].client_streaming]
CHEAP = [name for name in UNARY if "Explain" not in name]
EXPLAINING = [name for name in UNARY if "Explain" in name]


def require_well_ended(result: CallResult, method: Any, *, parsed: bool = True) -> None:
    """A status that the contract allows, with all that belongs to it."""
    assert all(map(is_finite, result.replies)), result
    if not parsed:
        assert (result.code, result.reason) == ("INTERNAL", "MALFORMED_MESSAGE"), result
        return
    assert result.code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND"), result
    if result.code == "OK":
        return
    assert result.message
    if result.code == "NOT_FOUND":
        assert result.reason == "NOT_FOUND"
        return
    assert result.reason in ("INVALID_REQUEST", "INVALID_IMAGE", "IMAGE_TOO_LARGE"), result
    assert len(result.fields) == 1
    assert names_a_field(method.input_type, result.fields[0]), result


def require_serving(caller: Caller) -> None:
    """The server is healthy, and classifies a good image as always."""
    assert caller.is_serving()
    image = image_pb2.Image(raw={"data": bytes((255, 0, 0)) * 64, "height": 8, "width": 8})
    request = pb2.ClassifyRequest(model="colours", version=1, images=[image])
    result = caller.call(METHODS["Classify"], [request.SerializeToString()])
    assert result.code == "OK", result
    (prediction,) = result.replies[0].predictions
    assert (prediction.label, prediction.alert) == ("red", True)
    assert prediction.scores[0].probability == pytest.approx(RED)


def require_answered(name: str, request: Any, replies: Any) -> None:
    """The guarantees of every response."""
    if name == "Classify":
        (reply,) = replies
        assert len(reply.predictions) == len(request.images)
        for one in reply.predictions:
            found = [score.probability for score in one.scores]
            if request.HasField("faces"):
                require_faces(request, one)
            if found or not request.HasField("faces"):
                assert len(found) == (request.top_k or 3)
            assert found == sorted(found, reverse=True)
            assert all(0 <= probability <= 1 for probability in found)
            assert len(one.embedding) == (3 if request.return_embedding else 0)
    elif name == "Embed":
        (reply,) = replies
        assert len(reply.embeddings) == len(request.images)
    elif name == "Explain":
        (reply,) = replies
        require_explained(request, reply)
    elif name == "ExplainStream":
        assert [one.final for one in replies] == [False] * (len(replies) - 1) + [True]
        require_explained(request, replies[-1].explanation)


def require_faces(request: Any, found: prediction_pb2.Prediction) -> None:
    """The guarantees of an image's faces."""
    assert (found.decision == prediction_pb2.DECISION_NO_FACE) == (not found.faces)
    assert len(found.faces) <= (request.faces.max_faces or 20)
    for face in found.faces:
        box = face.box
        assert 0 <= box.left < box.right <= 1
        assert 0 <= box.top < box.bottom <= 1
        assert request.faces.threshold <= face.score <= 1
        assert bool(face.issue) == (not face.prediction.scores)
    assert found.alert == any(face.alert for face in found.faces)


def require_explained(request: Any, reply: Any) -> None:
    single = len(request.labels) or request.top_labels or (0 if request.contrasts else 1)
    assert len(reply.explanations) == single + len(request.contrasts)
    wants = set(request.pictures)
    for one in reply.explanations:
        assert bool(one.overlay_png) == (1 in wants)
        assert bool(one.heat_map_png) == (2 in wants)
        for weight in one.weights:
            assert 0 <= weight.segment < 65535
            assert weight.std_error >= 0
    assert bool(reply.segments_png) == (3 in wants)


def input_of(name: str) -> Any:
    return GetMessageClass(METHODS[name].input_type)


def try_one(caller: Caller, name: str, request: Any) -> None:
    result = caller.call(METHODS[name], [request.SerializeToString()])
    require_well_ended(result, METHODS[name])
    if result.code == "OK":
        require_answered(name, request, result.replies)
    require_serving(caller)


@examples(120)
@given(data=st.data())
def test_usable_requests_get_a_response(caller: Caller, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(CHEAP))
    request = data.draw(messages(input_of(name), USABLE))
    result = caller.call(METHODS[name], [request.SerializeToString()])
    if name == "Classify" and request.HasField("faces") and request.return_embedding:
        assert result.fields == ("return_embedding",)
        return
    assert result.code == "OK", result
    require_answered(name, request, result.replies)


@examples(300)
@given(data=st.data())
def test_spoilt_requests_get_a_response_or_a_refusal(caller: Caller, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(CHEAP))
    try_one(caller, name, data.draw(spoilt(input_of(name), USABLE)))


@pytest.mark.ci
@examples(120)
@given(data=st.data())
def test_spoilt_explain_requests_are_explained_or_refused(
    caller: Caller, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(EXPLAINING))
    try_one(caller, name, data.draw(spoilt(input_of(name), USABLE)))


@examples(120)
@given(data=st.data())
def test_damaged_images_are_classified_or_refused(caller: Caller, data: st.DataObject) -> None:
    damaged = bytearray(data.draw(choice([*GOOD.values(), *BAD.values()])))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    image = image_pb2.Image(encoded=bytes(damaged))
    try_one(caller, "Classify", pb2.ClassifyRequest(model="colours", images=[image]))


@pytest.mark.ci
@examples(300)
@given(data=st.data())
def test_broken_bytes_are_refused_or_a_message(caller: Caller, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(UNARY))
    kind = input_of(name)
    sent = data.draw(broken(kind, USABLE) | st.binary(max_size=60))
    result = caller.call(METHODS[name], [sent])
    require_well_ended(result, METHODS[name], parsed=can_be_parsed(kind, sent))
    require_serving(caller)


@pytest.mark.ci
@examples(120)
@given(data=st.data())
def test_a_camera_may_send_anything_in_any_order(caller: Caller, data: st.DataObject) -> None:
    kind = pb2.ClassifyStreamRequest
    config = data.draw(messages(pb2.StreamConfig, USABLE) | spoilt(pb2.StreamConfig, USABLE))
    frame = st.builds(lambda frame: kind(frame=frame), messages(pb2.Frame, USABLE))
    bad_frame = st.builds(lambda frame: kind(frame=frame), spoilt(pb2.Frame, USABLE))
    sent = data.draw(st.lists(frame | frame | bad_frame, max_size=5))
    if data.draw(st.integers(0, 4)):
        sent.insert(0, kind(config=config))
    if data.draw(st.integers(0, 4)) == 0:
        sent.insert(data.draw(st.integers(0, len(sent))), data.draw(spoilt(kind, USABLE)))
    result = caller.call(
        METHODS["ClassifyStream"], [message.SerializeToString() for message in sent]
    )
    require_well_ended(result, METHODS["ClassifyStream"])
    if result.code == "OK":
        asked = sorted(message.frame.frame_id for message in sent[1:])
        frames = [answer for answer in result.replies if answer.status not in NEWS]
        assert sorted(answer.frame_id for answer in frames) == asked
    assert {answer.status for answer in result.replies} <= FRAME_STATUSES - {0}
    for answer in result.replies:
        assert answer.HasField("prediction") == (answer.status == pb2.FRAME_STATUS_CLASSIFIED)
        assert answer.reason or answer.status not in (
            pb2.FRAME_STATUS_INVALID,
            pb2.FRAME_STATUS_FAILED,
        )
    require_serving(caller)


@examples(120)
@given(data=st.data())
def test_a_camera_may_send_broken_bytes(caller: Caller, data: st.DataObject) -> None:
    kind = pb2.ClassifyStreamRequest
    config = kind(config=data.draw(messages(pb2.StreamConfig, USABLE)))
    frames = st.builds(
        lambda frame: kind(frame=frame).SerializeToString(), messages(pb2.Frame, USABLE)
    )
    sent = [config.SerializeToString(), *data.draw(st.lists(frames, max_size=3))]
    junk = data.draw(broken(kind, USABLE) | st.binary(max_size=40))
    sent.insert(data.draw(st.integers(0, len(sent))), junk)
    result = caller.call(METHODS["ClassifyStream"], sent)
    require_well_ended(result, METHODS["ClassifyStream"], parsed=can_be_parsed(kind, junk))
    require_serving(caller)
