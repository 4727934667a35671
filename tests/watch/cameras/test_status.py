"""What a camera says of answers and losses, in which order."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limelens.serve.client.results import FrameAnswer, FrameStatus, ModelRef, Timings
from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.decisions.decision import Decision, FacePrediction, Prediction, Score
from limelens.serve.image import Region
from limelens.serve.tools.camera import SourceAnswer
from limelens.watch.cameras.explanations import Explained
from limelens.watch.cameras.settings import CameraSettings
from limelens.watch.cameras.status import CameraStatus, Part
from limelens.watch.event import Event
from limelens.watch.live import LiveCameras


class Door:
    """A camera's status, and all that came of it."""

    def __init__(self, **settings: Any) -> None:
        self.events: list[Event] = []
        self.explained: list[Explained] = []
        self.said: list[str] = []
        self.live = LiveCameras()
        given = {"id": "door", "source": "rtsp://door", "window": 1, **settings}
        self.status = CameraStatus(
            CameraSettings.model_validate(given), "rtsp://door", self.live, self.events.append,
            self.explained.append, self.said.append,
        )  # fmt: skip
        self.status.start()

    def answer(self, number: int, *faces: FacePrediction, taken_at: float | None = None) -> None:
        """Frame `number`: red, an alert, if it is odd, else green; or people."""
        label = "red" if number % 2 else "green"
        alert = any(face.alert for face in faces) if faces else label == "red"
        scores = (Score(label, 0.9),)
        prediction = Prediction(
            Decision.LABEL, label, (), alert, scores, 0.5, None, faces=tuple(faces)
        )
        answer = FrameAnswer(
            frame_id=number, status=FrameStatus.CLASSIFIED, prediction=prediction,
            smoothed_label=label, changed=True, alert=alert, dropped_frames=0, reason="",
            model=ModelRef("colours", 1, "CPU"), timings_ms=Timings(0, 0, 0, 1), capture_time=None,
            smoothed_decision=Decision.LABEL,
            state=CameraState.ALERT if alert else CameraState.CLEAR,
        )  # fmt: skip
        at = time.monotonic() if taken_at is None else taken_at
        self.status.answered(SourceAnswer(answer, "", b"jpeg", taken_at=at), 0)

    @property
    def losses(self) -> list[str]:
        """Why something was lost, as of the events."""
        return [one.detail for one in self.events if one.type == "lost"]

    @property
    def news(self) -> list[tuple[str, str, str, str]]:
        """Type, state, previous state, and reason or label, of all but single frames."""
        return [
            (one.type, one.state, one.previous, one.reason or one.label or "")
            for one in self.events
            if one.type != "frame"
        ]


Make = Callable[..., Door]
ALERT, CLEAR, UNKNOWN = "alert", "clear", "unknown"


def person(number: int, label: str, *, changed: bool = True) -> FacePrediction:
    prediction = Prediction(
        Decision.LABEL, label, (), label == "red", (Score(label, 0.8),), 0.5, None
    )
    return FacePrediction(
        Region(0, 0, 1, 1), 1.0, prediction, alert=label == "red", person=number,
        smoothed_label=label, changed=changed,
    )  # fmt: skip


def test_what_a_door_waits_for_comes_before_the_frame_that_brought_it() -> None:
    door = Door()
    door.answer(0)
    door.answer(1)
    assert [event.type for event in door.events] == ["state", "state", "frame", "state", "frame"]
    assert door.news == [
        ("state", UNKNOWN, UNKNOWN, "starting"),
        ("state", CLEAR, UNKNOWN, "green"),
        ("state", ALERT, CLEAR, "red"),
    ]
    alert = door.events[3]
    assert alert.evidence is not None
    assert (alert.evidence.jpeg, [vote.label for vote in alert.evidence.votes]) == (
        b"jpeg", ["red"],
    )  # fmt: skip
    assert alert.evidence.rule is not None
    assert (alert.evidence.rule.window, alert.evidence.rule.required) == (1, 1)


def test_a_frame_from_before_a_loss_does_not_end_it() -> None:
    door = Door()
    door.answer(0)
    before = time.monotonic()
    door.status.lost(Part.CAMERA, UnknownReason.CAMERA_LOST, "cut off")
    door.answer(2, taken_at=before)
    assert door.news[-2:] == [
        ("lost", UNKNOWN, CLEAR, "camera_lost"),
        ("state", UNKNOWN, CLEAR, "camera_lost"),
    ]
    door.answer(4)
    assert door.news[-3:] == [
        ("back", UNKNOWN, UNKNOWN, "starting"),
        ("state", UNKNOWN, UNKNOWN, "starting"),
        ("state", CLEAR, UNKNOWN, "green"),
    ]


def test_a_frame_from_before_a_loss_says_nothing_after_it() -> None:
    door = Door()
    door.answer(0)
    before = time.monotonic()
    door.status.lost(Part.CAMERA, UnknownReason.CAMERA_LOST, "cut off")
    door.status.back(Part.CAMERA)
    door.answer(2, taken_at=before)
    assert door.news[-1] == ("state", UNKNOWN, UNKNOWN, "starting")
    door.answer(4)
    assert door.news[-1] == ("state", CLEAR, UNKNOWN, "green")


def test_of_two_losses_the_other_one_stays() -> None:
    door = Door()
    door.status.lost(Part.SERVER, UnknownReason.SERVER_LOST, "no server")
    door.status.lost(Part.CAMERA, UnknownReason.CAMERA_LOST, "no camera")
    door.status.back(Part.CAMERA)
    assert door.news[-1][3] == "server_lost"
    assert door.said == ["door: no server", "door: no camera", "door: the camera is back"]


def test_another_reason_of_a_loss_is_said_once() -> None:
    door = Door()
    for detail in ("refused", "refused", "unknown host", "unknown host"):
        door.status.lost(Part.SERVER, UnknownReason.SERVER_LOST, detail)
    assert door.said == ["door: refused", "door: unknown host"]
    (camera,) = door.live.all()
    assert (camera.detail, camera.last_error) == ("unknown host", "unknown host")
    # An event of it comes a moment later, as it may change again.
    assert door.losses == ["refused"]
    now = time.monotonic()
    for seconds in (1, 6, 7, 99):
        door.status.tick(now + seconds)
    assert door.losses == ["refused", "unknown host"]
    last = [event for event in door.events if event.type == "lost"][-1]
    assert (last.state, last.previous, last.reason) == (UNKNOWN, UNKNOWN, "server_lost")


def test_a_reason_that_goes_to_and_fro_is_no_stream_of_events() -> None:
    door = Door()
    now = time.monotonic()
    for number in range(3600):
        detail = "no answer" if number % 2 else "refused"
        door.status.lost(Part.CAMERA, UnknownReason.CAMERA_LOST, detail, is_said=True)
        door.status.tick(now + number)
    # After 5, 10, 20 … seconds, and then each ten minutes at most.
    assert 5 <= len(door.losses) <= 15
    assert all(one != other for one, other in itertools.pairwise(door.losses))
    # It is no secret for long how it ends.
    door.status.lost(Part.CAMERA, UnknownReason.CAMERA_LOST, "wrong password", is_said=True)
    door.status.tick(now + 3600 + 600)
    assert door.losses[-1] == "wrong password"
    door.status.back(Part.CAMERA)
    door.status.lost(Part.CAMERA, UnknownReason.CAMERA_LOST, "cut off", is_said=True)
    assert door.losses[-1] == "cut off"


def test_another_reason_for_programs_is_an_event_of_its_own() -> None:
    door = Door()
    door.status.lost(Part.SERVER, UnknownReason.SERVER_LOST, "no server")
    door.status.tick(time.monotonic() + 9)
    door.status.lost(Part.SERVER, UnknownReason.REFUSED, "no such version")
    assert door.news[-1] == ("state", UNKNOWN, UNKNOWN, "refused")
    door.status.tick(time.monotonic() + 9)
    assert [(one.reason, one.detail) for one in door.events if one.type == "lost"] == [
        ("server_lost", "no server"),
        ("refused", "no such version"),
    ]


def test_with_a_server_go_its_explanations_and_its_votes() -> None:
    door = Door(window=3)
    door.answer(1)
    door.status.lost(Part.SERVER, UnknownReason.SERVER_LOST, "gone")
    assert [one.reason for one in door.explained] == ["the server was lost before the explanation"]
    door.answer(2)
    assert door.events[-1].votes == {"green": 1}


def test_a_camera_that_is_off_is_not_lost() -> None:
    door = Door()
    door.status.off("outside its schedule")
    door.status.lost(Part.CAMERA, UnknownReason.CAMERA_LOST, "cut off")
    door.answer(0)
    assert door.news[-1] == ("state", UNKNOWN, UNKNOWN, "off")
    door.status.on()
    door.answer(2)
    assert door.news[-1] == ("state", CLEAR, UNKNOWN, "green")


def test_nothing_is_said_after_the_end() -> None:
    door = Door()
    door.answer(1)
    door.status.end("watching was ended")
    number = len(door.events)
    assert door.news[-1] == ("state", UNKNOWN, ALERT, "off")
    # Its explanation will not come any more, and whoever waits for it is told.
    assert [(one.event.label, one.reason) for one in door.explained] == [
        ("red", "watching was ended")
    ]
    door.answer(0)
    door.status.lost(Part.SERVER, UnknownReason.SERVER_LOST, "gone")
    door.status.heartbeat()
    door.status.tick(time.monotonic() + 99)
    assert len(door.events) == number


def test_a_decision_expires_by_the_clock_alone() -> None:
    door = Door(max_decision_age_s=2)
    door.answer(0)
    expires_at = door.status.expires_at()
    assert expires_at is not None
    door.status.tick(expires_at - 0.01)
    assert door.news[-1][1] == CLEAR
    door.status.tick(expires_at + 0.01)
    assert door.news[-1] == ("state", UNKNOWN, CLEAR, "expired")
    assert door.status.expires_at() is None


def test_a_decision_on_a_file_holds_until_the_next_however_long_its_explanation_takes(
    tmp_path: Path,
) -> None:
    (tmp_path / "visit.mp4").touch()
    door = Door(source=str(tmp_path / "visit.mp4"), max_decision_age_s=2)
    door.answer(1)
    door.status.tick(time.monotonic() + 999)
    assert door.news[-1][1] == ALERT
    (camera,) = door.live.all()
    assert camera.max_age_s is None


def test_another_person_who_alerts_is_an_event_of_their_own() -> None:
    door = Door(faces=True)
    door.answer(1, person(1, "red"))
    door.answer(3, person(1, "red", changed=False), person(2, "red"))
    states = [event for event in door.events if event.type == "state"]
    assert [(event.state, event.previous, event.person) for event in states[1:]] == [
        (ALERT, UNKNOWN, 1),
        (ALERT, ALERT, 2),
    ]
    assert [event.people for event in states[1:]] == [1, 2]
    assert states[-1].votes == {"red": 1}
    (camera,) = door.live.all()
    assert (camera.num_alerts, camera.last_event_id) == (1, states[-1].id)


@pytest.mark.parametrize(("explain", "labels"), [("never", []), ("alerts", ["red"])])
def test_only_what_is_asked_for_waits_for_an_explanation(explain: str, labels: list[str]) -> None:
    door = Door(explain=explain)
    door.answer(0)
    door.answer(1)
    door.status.stream_ended("the stream ended")
    assert [one.event.label for one in door.explained] == labels
