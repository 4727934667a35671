"""The people in a camera's stream, against a real server with a real detector."""

from __future__ import annotations

import datetime
import io
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import BundleMaker, save_bundle
from tests.detectors import BLUE, GREEN, MAGENTA, RED, frame_of, save_detector
from tests.serve.paced import Paced
from tests.serve.rpc.conftest import Gate
from tests.waiting import until

from limelens.serve import Client
from limelens.serve.bundle import Bundle
from limelens.serve.client import Frame
from limelens.serve.client.results import CameraState, ChangeStatus, FrameAnswer, FrameStatus
from limelens.serve.decisions.decision import Decision, FaceIssue
from limelens.serve.errors import InvalidRequestError, LimelensError
from limelens.serve.faces.options import FaceOptions
from limelens.serve.image import Region
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import face_pb2, image_pb2

FAST: Any = {"segmentation": "grid", "num_segments": 4, "num_samples": 20, "seed": 7}
LEFT, RIGHT, LARGE = (80, 160, 80), (560, 320, 80), (320, 160, 160)
"""Places in a frame of 480x640 where the detector finds squares: left, top, side."""
EMPTY = frame_of()
FOLLOWED = FaceOptions(max_unseen_s=60)
"""People are not forgotten between two frames, however busy the machine is."""
BEGAN = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)


def scene(**colours: Any) -> np.ndarray:
    """A frame with squares, by their place."""
    places = {"left": LEFT, "right": RIGHT, "large": LARGE}
    return frame_of([(*places[place], colour) for place, colour in colours.items()])


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_detector(tmp_path_factory.mktemp("detector")))


@pytest.fixture
def server(start_server: Callable[..., Any], detector: str) -> Any:
    return start_server(face_detector=detector)


def people(answer: FrameAnswer) -> dict[int | None, str | None]:
    """The decision about each person of an answer, by number."""
    return {face.person: face.smoothed_label for face in answer.faces}


def test_each_person_is_decided_and_the_worst_is_told(client: Client) -> None:
    camera = Paced(client, faces=FOLLOWED, top_k=2)
    found = [
        camera(one)
        for one in (
            EMPTY, scene(left=GREEN), scene(left=GREEN, large=BLUE),
            scene(left=GREEN, large=BLUE, right=RED), scene(left=GREEN),
        )
    ]  # fmt: skip
    assert camera.end() == []
    assert [people(one) for one in found] == [
        {}, {1: "green"}, {2: "blue", 1: "green"}, {2: "blue", 1: "green", 3: "red"},
        # Those who cannot be seen any more keep their decisions for a while.
        {2: "blue", 1: "green", 3: "red"},
    ]  # fmt: skip
    assert [one.smoothed_label for one in found] == [None, "green", "blue", "red", "red"]
    assert [one.smoothed_decision for one in found] == [Decision.NO_FACE, *[Decision.LABEL] * 4]
    assert [one.changed for one in found] == [True, True, True, True, False]
    assert [one.alert for one in found] == [False, False, False, True, True]
    assert [one.state for one in found] == [CameraState.CLEAR] * 3 + [CameraState.ALERT] * 2
    assert [[face.changed for face in one.faces] for one in found] == [
        [], [True], [True, False], [False, False, True], [False] * 3,
    ]  # fmt: skip
    large, left, right = found[3].faces
    assert [large.alert, left.alert, right.alert] == [False, False, True]
    box = large.box
    assert [box.left, box.top, box.right, box.bottom] == pytest.approx([1 / 2, 1 / 3, 3 / 4, 2 / 3])
    assert [score.label for score in right.prediction.scores] == ["red", "green"]
    assert found[3].prediction is not None
    assert found[3].prediction.label == "red"
    assert [face.seen for face in found[4].faces] == [False, True, False]
    assert found[4].prediction is not None
    assert found[4].prediction.label == "green"
    assert found[0].prediction is not None
    assert found[0].prediction.decision is Decision.NO_FACE


def test_smoothing_counts_the_frames_of_each_person(client: Client) -> None:
    camera = Paced(client, faces=FOLLOWED, smoothing=(5, 3), required_to_alert=2)
    frames = [scene(left=GREEN), scene(left=GREEN, right=RED), *[scene(left=GREEN)] * 4]
    found = [camera(one) for one in frames]
    # What was seen in one frame alone alerts nobody, and nothing of it stays.
    assert [people(one) for one in found] == [
        {1: None}, {1: None, 2: None}, *[{1: "green"}] * 4,
    ]  # fmt: skip
    assert not any(one.alert for one in found)
    found = [camera(scene(left=GREEN, right=RED)) for _ in range(3)]
    assert [one.smoothed_decision for one in found] == [
        Decision.ABSTAINED, Decision.LABEL, Decision.LABEL,
    ]  # fmt: skip
    # Somebody new of whom nothing is known takes the clearance of the others away.
    assert [one.state for one in found] == [
        CameraState.UNKNOWN, CameraState.ALERT, CameraState.ALERT,
    ]  # fmt: skip
    assert [one.changed for one in found] == [True, True, False]
    assert [one.alert for one in found] == [False, True, True]
    found = [camera(scene(left=MAGENTA, right=RED)) for _ in range(3)]
    assert [people(one)[1] for one in found] == ["green", "green", None]
    camera.end()


def test_someone_who_turns_away_keeps_number_and_decision_for_a_while(client: Client) -> None:
    camera = Paced(client, faces=FaceOptions(max_unseen_s=0.5))
    assert people(camera(taken(0.0, scene(left=RED)))) == {1: "red"}
    assert people(camera(taken(0.2, EMPTY))) == {1: "red"}
    assert people(camera(taken(0.4, scene(left=RED)))) == {1: "red"}
    assert people(camera(taken(0.8, EMPTY))) == {1: "red"}
    assert camera(taken(1.0, EMPTY)).smoothed_decision is Decision.NO_FACE
    assert people(camera(taken(1.2, scene(left=RED)))) == {2: "red"}
    camera.end()


def taken(at_s: float, pixels: np.ndarray) -> Frame:
    """A frame that was taken so many seconds after the first."""
    return Frame(round(1000 * at_s), pixels, BEGAN + datetime.timedelta(seconds=at_s))


def test_someone_who_moves_on_is_followed(client: Client) -> None:
    camera = Paced(client, faces=FOLLOWED)
    for i, left in enumerate(range(80, 400, 40)):
        # As many frames a second as from a camera.
        answer = camera(taken(i / 5, frame_of([(left, 160, 40, BLUE)])))
        assert people(answer) == {1: "blue"}
        assert answer.faces[0].box.left == pytest.approx(left / 640)
    camera.end()


def test_faces_that_cannot_be_judged_say_nothing(client: Client) -> None:
    camera = Paced(client, faces=FaceOptions(max_unseen_s=60, min_size_px=8))
    frame = np.ascontiguousarray(scene(left=RED)[::8, ::8])
    [face] = camera(frame).faces  # ten pixels in a frame of 60x80
    assert face.issue is FaceIssue.TOO_SMALL
    assert (face.person, face.smoothed_label, face.prediction.scores) == (1, None, ())
    answer = camera(frame)
    assert (answer.smoothed_decision, answer.alert) == (Decision.ABSTAINED, False)
    assert answer.state is CameraState.UNKNOWN
    camera.end()


def test_faces_are_looked_for_in_the_region_alone(client: Client) -> None:
    camera = Paced(client, faces=FOLLOWED, region=Region(0.5, 0, 1, 1))
    both = scene(left=RED, right=GREEN)
    # The detector's grid lies on the region: 320x480 pixels become 64x96.
    answer = camera(both)
    assert [one.label for one in [answer.prediction] if one is not None] == ["green"]
    assert answer.faces[0].box.left == pytest.approx(560 / 640, abs=0.01)
    camera.end()


def test_faces_are_looked_for_in_every_third_frame(server: Any, client: Client) -> None:
    camera = Paced(client, faces=FaceOptions(max_unseen_s=60, detect_every=3))
    found = [camera(scene(left=GREEN, right=BLUE)) for _ in range(7)]
    assert [people(one) for one in found] == [{1: "green", 2: "blue"}] * 7
    assert [one.faces[0].seen for one in found] == [True, False, False] * 2 + [True]
    assert all(face.prediction.scores for one in found for face in one.faces)
    # Two faces in seven frames, and three times the detector.
    assert server.counts().run == 2 * 7 + 3
    assert server.counts().dropped == 0
    # Between two detections, somebody's face is judged, but nobody is found.
    calm = camera(scene(left=GREEN, right=BLUE, large=RED))
    assert people(calm) == {1: "green", 2: "blue"}
    changed = camera(scene(left=RED, right=BLUE, large=RED))
    assert changed.prediction is not None
    assert changed.prediction.label == "red"
    assert people(changed) == {1: "green", 2: "blue"}
    # It may be what is behind them that was judged, so that faces are looked for next.
    looked = camera(scene(left=RED, right=BLUE, large=RED))
    assert people(looked) == {3: "red", 1: "red", 2: "blue"}
    assert [face.seen for face in looked.faces] == [True] * 3
    camera.end()


def test_an_alert_outlasts_someone_who_left_between_two_detections(client: Client) -> None:
    camera = Paced(client, faces=FaceOptions(max_unseen_s=60, detect_every=4))
    wall = frame_of([(0, 0, 640, GREEN)])  # without any face, the classifier says green of it
    found = [camera(one) for one in (scene(left=RED), wall, wall, wall)]
    assert [one.smoothed_label for one in found] == ["red"] * 4
    assert [one.changed for one in found] == [True, False, False, False]
    camera.end()


def test_of_equal_faces_the_largest_decides(client: Client) -> None:
    camera = Paced(client, faces=FaceOptions(max_unseen_s=60, detect_every=2))
    camera(scene(left=GREEN))  # who comes first is the smaller one
    camera(scene(left=GREEN))
    found = [camera(scene(left=GREEN, large=BLUE)) for _ in range(2)]
    assert [[face.seen for face in one.faces] for one in found] == [[True] * 2, [False] * 2]
    assert [one.prediction and one.prediction.label for one in found] == ["blue", "blue"]
    camera.end()


def test_nobody_is_judged_while_nobody_is_followed(server: Any, client: Client) -> None:
    camera = Paced(client, faces=FaceOptions(max_unseen_s=60, detect_every=4))
    found = [camera(EMPTY) for _ in range(8)]
    assert [one.smoothed_decision for one in found] == [Decision.NO_FACE] * 8
    assert server.counts().run == 2
    bad = camera(b"no image")
    assert (bad.status, bad.smoothed_decision) == (FrameStatus.INVALID, Decision.NO_FACE)
    # After a frame that says nothing, faces are looked for at once.
    assert people(camera(scene(left=RED))) == {1: "red"}
    camera.end()


def test_still_frames_repeat_what_was_seen_and_cost_no_run(server: Any, client: Client) -> None:
    camera = Paced(
        client, faces=FaceOptions(max_unseen_s=60, skip_still_frames=True), smoothing=(5, 3)
    )
    found = [camera(scene(left=RED, large=BLUE)) for _ in range(6)]
    assert server.counts().run == 3
    assert server.counts().dropped == 0
    assert [one.status for one in found] == [FrameStatus.CLASSIFIED] * 6
    # They count: somebody who stands still gets a decision, too.
    assert [people(one) for one in found] == [
        *[{1: None, 2: None}] * 2, *[{1: "blue", 2: "red"}] * 4
    ]  # fmt: skip
    assert [[face.changed for face in one.faces] for one in found][2:4] == [[True] * 2, [False] * 2]
    assert {face.prediction for face in (found[0].faces[0], found[5].faces[0])} == {
        found[0].faces[0].prediction
    }
    assert found[5].timings_ms.run == 0
    assert people(camera(scene(left=RED, right=GREEN))) == {1: "blue", 2: "red", 3: None}
    assert server.counts().run == 6
    camera.end()


def test_a_bad_frame_lets_the_next_one_be_looked_at(server: Any, client: Client) -> None:
    camera = Paced(client, faces=FaceOptions(max_unseen_s=60, skip_still_frames=True))
    file = io.BytesIO()
    Image.fromarray(scene(left=RED)).save(file, "JPEG")
    assert [camera(scene(left=RED)).status.value for _ in range(2)] == ["classified"] * 2
    bad = camera(file.getvalue()[:800])
    assert (bad.status, bad.smoothed_label, bad.alert) == (FrameStatus.INVALID, "red", True)
    assert bad.faces == ()
    runs = server.counts().run
    assert people(camera(scene(left=RED))) == {1: "red"}
    assert server.counts().run == runs + 2
    camera.end()


def test_a_frame_of_another_size_shows_other_people(client: Client) -> None:
    camera = Paced(client, faces=FaceOptions(max_unseen_s=60, detect_every=2))
    assert people(camera(scene(left=RED))) == {1: "red"}
    assert people(camera(frame_of([(40, 80, 40, RED)], 240, 320))) == {2: "red"}
    camera.end()


def test_a_still_frame_with_another_region_is_looked_at(server: Any) -> None:
    file = io.BytesIO()
    Image.fromarray(frame_of([(80, 160, 80, RED), (400, 160, 80, RED)])).save(file, "PNG")
    turns: queue.Queue[float] = queue.Queue()

    def messages() -> Iterator[service_pb2.ClassifyStreamRequest]:
        faces = face_pb2.FaceOptions(skip_still_frames=True, max_unseen_ms=60_000)
        config = service_pb2.StreamConfig(camera_id="door", faces=faces)
        yield service_pb2.ClassifyStreamRequest(config=config)
        for number in range(3):
            left = turns.get(timeout=60)
            region = image_pb2.RegionOfInterest(left=left, top=0, right=left + 0.5, bottom=1)
            image = image_pb2.Image(encoded=file.getvalue(), region_of_interest=region)
            frame = service_pb2.Frame(frame_id=number, image=image)
            yield service_pb2.ClassifyStreamRequest(frame=frame)

    answers = server.stub().ClassifyStream(messages(), timeout=60)
    found = []
    for left in (0.0, 0.0, 0.5):
        turns.put(left)
        faces = next(answers).prediction.faces
        found.append([round(640 * face.box.left) for face in faces if face.seen])
    assert found == [[80], [80], [400]]
    assert list(answers) == []


def test_slow_frames_are_decoded_elsewhere(server: Any, client: Client) -> None:
    noise = np.random.default_rng(1).integers(30, 40, (960, 1280, 3), dtype=np.uint8)
    noise[320:480, 160:320] = RED
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", compress_level=0)
    camera = Paced(
        client, faces=FaceOptions(max_unseen_s=60, detect_every=2, skip_still_frames=True)
    )
    for _ in range(3):
        answer = camera(file.getvalue())
        assert answer.status is FrameStatus.CLASSIFIED
        assert people(answer) == {1: "red"}
    assert server.counts().run == 2
    camera.end()


def test_a_decision_that_is_too_old_forgets_everybody(client: Client) -> None:
    camera = Paced(client, faces=FaceOptions(max_unseen_s=60), max_decision_age_s=0.4)
    assert people(camera(scene(left=RED))) == {1: "red"}
    reported = camera.answer()  # without a frame
    assert (reported.status, reported.frame_id) == (FrameStatus.DECISION_EXPIRED, 0)
    assert (reported.smoothed_label, reported.changed, reported.alert) == (None, True, False)
    assert reported.smoothed_decision is Decision.ABSTAINED
    assert reported.state is CameraState.UNKNOWN
    assert people(camera(scene(left=RED))) == {2: "red"}
    camera.end()


def test_an_empty_hall_becomes_unknown_too(client: Client) -> None:
    camera = Paced(client, faces=FOLLOWED, max_decision_age_s=0.4)
    nobody = camera(EMPTY)
    assert (nobody.smoothed_decision, nobody.state) == (Decision.NO_FACE, CameraState.CLEAR)
    reported = camera.answer()
    assert reported.status is FrameStatus.DECISION_EXPIRED
    assert (reported.smoothed_decision, reported.changed) == (Decision.ABSTAINED, True)
    assert reported.state is CameraState.UNKNOWN
    camera.end()


@pytest.mark.parametrize("labels", [("red", "green", "azure"), ("red", "green", "blue")])
def test_another_model_judges_the_same_people(
    start_server: Callable[..., Any],
    detector: str,
    tmp_path: Path,
    bundles: BundleMaker,
    labels: tuple[str, ...],
) -> None:
    save_bundle(tmp_path, bundles.metadata(), 1)
    server = start_server(tmp_path, face_detector=detector)
    with Client(server.address, max_attempts=1) as client:
        options = FaceOptions(max_unseen_s=60, skip_still_frames=True)
        camera = Paced(client, faces=options, smoothing=(3, 2))
        for _ in range(2):
            answer = camera(scene(left=GREEN))
        assert people(answer) == {1: "green"}
        changed = replace(bundles.metadata(), labels=labels, macro_labels={})
        save_bundle(tmp_path, changed, 2)
        assert server.repository.refresh()
        answer = camera(scene(left=GREEN))
        is_same = labels[2] == "blue"
        assert (answer.model.version, people(answer)) == (2, {1: "green" if is_same else None})
        assert answer.timings_ms.run > 0  # what the old model said is not repeated
        assert people(camera(scene(left=GREEN))) == {1: "green"}
        camera.end()


def test_of_several_labels_the_alert_is_smoothed(
    start_server: Callable[..., Any], detector: str, models: Path
) -> None:
    server = start_server(models, face_detector=detector)
    with Client(server.address, max_attempts=1) as client:
        camera = Paced(client, faces=FOLLOWED, model="tags", threshold=0.2)
        answer = camera(scene(left=MAGENTA, right=BLUE))
        assert {face.prediction.labels for face in answer.faces} == {("blue",), ("red", "blue")}
        assert people(answer) == {1: "red", 2: "blue"}
        assert (answer.smoothed_label, answer.alert) == ("red", True)
        camera.end()


def test_unusable_numbers_make_the_decision_unknown(
    client: Client, break_for: Callable[..., None]
) -> None:
    break_for(lambda images: images[:, 16, 16, 2] > 200)
    camera = Paced(client, faces=FOLLOWED)
    assert people(camera(scene(left=RED))) == {1: "red"}
    failed = camera(scene(left=RED, right=BLUE))
    assert (failed.status, failed.smoothed_label) == (FrameStatus.FAILED, None)
    assert failed.smoothed_decision is Decision.ABSTAINED
    assert failed.state is CameraState.UNKNOWN
    assert people(camera(scene(left=RED))) == {2: "red"}
    camera.end()


def test_the_newest_frame_is_looked_at(server: Any, client: Client, gate: Gate) -> None:
    first, second = Paced(client, faces=FOLLOWED), Paced(client, faces=FOLLOWED)
    first(EMPTY)
    second(EMPTY)
    held = iter((first, second))
    gate.close(lambda: next(held).send(scene(left=RED)))
    for colour in (GREEN, BLUE):
        first.send(scene(left=colour))
    until(lambda: any(one.waiting and one.waiting.frame_id == 3 for one in server.service.cameras))
    gate.opened.set()
    found = [first.answer() for _ in range(3)]
    assert [(one.frame_id, one.status.value) for one in found] == [
        (2, "superseded"), (1, "classified"), (3, "classified"),
    ]  # fmt: skip
    assert [people(one) for one in found] == [{}, {1: "red"}, {1: "blue"}]
    first.end()
    second.end()


def test_each_persons_change_is_explained(server: Any, client: Client) -> None:
    camera = Paced(
        client, faces=FOLLOWED, explain_on_change={**FAST, "renderings": ["overlay", "segments"]}
    )
    camera.send(scene(left=RED, large=BLUE))
    found = [camera.answer() for _ in range(3)]
    frame = next(one for one in found if one.status is FrameStatus.CLASSIFIED)
    explained = {
        one.explanation.person: one.explanation for one in found if one.explanation is not None
    }
    assert people(frame) == {1: "blue", 2: "red"}
    assert {person: one.label for person, one in explained.items()} == {1: "blue", 2: "red"}
    for person, change in explained.items():
        assert change.status is ChangeStatus.EXPLAINED
        assert change.explanation is not None
        assert change.explanation.face is not None
        assert change.explanation.face.person == person
        [best] = change.explanation.explanations
        assert best.label == change.label
        with Image.open(io.BytesIO(best.overlay_png)) as overlay:
            assert overlay.size == (640, 480)
        box = change.explanation.face.box.box(480, 640)
        segments = np.asarray(Image.open(io.BytesIO(change.explanation.segments_png)))
        rows, columns = np.nonzero(segments != 65535)
        # The face is within what is explained, and little else.
        assert columns.min() < box[0]
        assert columns.max() > box[2]
        assert rows.max() - rows.min() < 2 * (box[3] - box[1])
    assert camera.end() == []
    assert server.server.runner.budget.held == 0


def test_only_a_newer_change_of_the_same_person_supersedes(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, opened, entered = Bundle.predict, threading.Event(), threading.Event()

    def held(self: Bundle, images: np.ndarray) -> np.ndarray:
        if not threading.current_thread().name.startswith("limelens-worker"):
            entered.set()
            assert opened.wait(120)
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", held)
    camera = Paced(client, faces=FOLLOWED, explain_on_change=FAST)
    assert people(camera(scene(left=RED, large=BLUE))) == {1: "blue", 2: "red"}
    assert entered.wait(60)  # of person 1
    camera.send(scene(left=GREEN, large=BLUE))
    found = [camera.answer() for _ in range(2)]
    opened.set()
    found += [camera.answer() for _ in range(2)]
    changes = [one.explanation for one in found if one.explanation is not None]
    assert [(one.person, one.label, one.status.value) for one in changes] == [
        (2, "red", "superseded"), (1, "blue", "explained"), (2, "green", "explained"),
    ]  # fmt: skip
    assert camera.end() == []


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (FaceOptions(detect_every=101), "config.faces.detect_every"),
        (FaceOptions(max_unseen_s=61), "config.faces.max_unseen_ms"),
        (FaceOptions(min_size_px=7), "config.faces.min_size_px"),
        (FaceOptions(threshold=1.5), "config.faces.threshold"),
    ],
)
def test_impossible_options_are_refused(client: Client, options: FaceOptions, field: str) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        list(client.stream([EMPTY], faces=options))


def test_a_server_without_a_detector_refuses_the_stream(start_server: Callable[..., Any]) -> None:
    server = start_server()
    with (
        Client(server.address, max_attempts=1) as client,
        pytest.raises(LimelensError, match="looks for no faces"),
    ):
        list(client.stream([EMPTY], faces=FOLLOWED))
    assert not server.service.cameras
