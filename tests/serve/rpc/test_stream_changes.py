"""Changes of a camera's decision, explained on the same stream by a real server."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.serve.paced import Paced
from tests.waiting import ever_longer, slow_by, until

from limelens.serve import Client
from limelens.serve.bundle import Bundle
from limelens.serve.client.results import CameraState, ChangeStatus, FrameAnswer, FrameStatus
from limelens.serve.errors import InvalidRequestError, UnavailableError
from limelens.serve.image import Region
from limelens.serve.rpc.server_config import Limits, ServiceSettings


def colour(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((32, 32, 3), (red, green, blue), np.uint8)


RED, GREEN, BLUE, GREY = (
    colour(255, 0, 0), colour(0, 255, 0), colour(0, 0, 255), colour(99, 99, 99),
)  # fmt: skip
FAST: Any = {"segmentation": "grid", "num_segments": 4, "num_samples": 20, "seed": 7}


class Camera(Paced):
    """A camera whose answers to frames and news come apart."""

    def __init__(self, client: Client, **settings: Any) -> None:
        super().__init__(client, **settings)
        self.news: list[FrameAnswer] = []

    def __call__(self, frame: Any) -> FrameAnswer:
        self.send(frame)
        while (answer := self.answer()).status in (
            FrameStatus.EXPLANATION, FrameStatus.DECISION_EXPIRED,
        ):  # fmt: skip
            self.news.append(answer)
        return answer

    def hear(self) -> FrameAnswer:
        """The next of the news."""
        return self.news.pop(0) if self.news else self.answer()

    def end(self) -> list[FrameAnswer]:
        return [*self.news, *super().end()]

    def leave(self) -> None:
        """As a camera that vanishes."""
        self._answers.close()
        super().leave()


class Gate:
    """While it is closed, every explanation waits in the model; counts the model's runs for it."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.entered = threading.Semaphore(0)
        self.num_runs = 0


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, predict = Gate(), Bundle.predict

    def held(self: Bundle, images: np.ndarray) -> np.ndarray:
        if threading.current_thread().name.startswith("limelens-worker"):
            return predict(self, images)
        gate.num_runs += 1
        gate.entered.release()
        assert gate.opened.wait(120)
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", held)
    yield gate
    gate.opened.set()


def test_a_change_is_explained_later_on_the_same_stream(client: Client) -> None:
    camera = Camera(client, explain_on_change={**FAST, "renderings": ["overlay"]})
    assert camera(RED).changed
    reported = camera.hear()
    assert (reported.status, reported.frame_id) == (FrameStatus.EXPLANATION, 0)
    assert (reported.smoothed_label, reported.changed, reported.alert) == ("red", False, True)
    assert reported.model.name == "colours"
    change = reported.explanation
    assert change is not None
    assert (change.status, change.label, change.reason) == (ChangeStatus.EXPLAINED, "red", "")
    assert change.explanation is not None
    (why,) = change.explanation.explanations
    (same,) = client.explain(RED, labels=["red"], **FAST).explanations
    assert why.label == "red"
    assert why.weights == same.weights
    assert why.stability == same.stability
    with Image.open(io.BytesIO(why.overlay_png)) as overlay:
        assert overlay.size == (32, 32)
    # The same label again is no change.
    assert not camera(RED).changed
    assert camera.end() == []


def test_only_the_region_is_explained(client: Client) -> None:
    both = np.concatenate([RED, GREEN], axis=1)
    camera = Camera(
        client, region=Region(0.5, 0, 1, 1), explain_on_change={**FAST, "renderings": ["segments"]}
    )
    assert camera(both).smoothed_label == "green"
    change = camera.hear().explanation
    assert change is not None
    assert change.explanation is not None
    segments = change.explanation.segments()
    assert segments is not None
    assert (segments[:, :32] == 65535).all()
    assert (segments[:, 32:] < 65535).all()
    camera.end()


def test_named_labels_are_explained_instead(client: Client) -> None:
    camera = Camera(client, explain_on_change={**FAST, "labels": ["blue"]})
    camera(RED)
    change = camera.hear().explanation
    assert change is not None
    assert change.explanation is not None
    assert change.label == "red"
    assert [one.label for one in change.explanation.explanations] == ["blue"]
    camera.end()


def test_changes_to_unknown_or_without_an_alert_are_not_explained(client: Client) -> None:
    camera = Camera(client, explain_on_change=FAST, explain_alerts_only=True)
    for frame in (GREEN, GREY, BLUE, GREY, RED, GREY):
        assert camera(frame).changed
    assert [one.frame_id for one in camera.end()] == [4]


def test_frames_are_classified_while_one_is_explained(client: Client, gate: Gate) -> None:
    gate.opened.clear()
    camera = Camera(client, explain_on_change=FAST)
    camera(RED)
    assert gate.entered.acquire(timeout=60)
    for _ in range(20):
        assert camera(RED).status is FrameStatus.CLASSIFIED
    assert camera.news == []
    gate.opened.set()
    assert camera.hear().frame_id == 0
    camera.end()


def test_the_newest_waiting_change_is_explained(client: Client, gate: Gate) -> None:
    gate.opened.clear()
    camera = Camera(client, explain_on_change=FAST)
    camera(RED)
    assert gate.entered.acquire(timeout=60)
    for frame in (GREEN, BLUE, RED):
        camera(frame)
    gate.opened.set()
    reported = {one.frame_id: one.explanation for one in camera.end()}
    found = {number: one.status.value for number, one in reported.items() if one is not None}
    assert found == {0: "explained", 1: "superseded", 2: "superseded", 3: "explained"}
    assert reported[1] is not None
    assert reported[1].reason == "a newer change came before its turn"
    assert reported[3] is not None
    assert reported[3].superseded_changes == 2


def test_another_cameras_waiting_explanation_also_takes_the_newest(
    start_server: Callable[..., Any], gate: Gate
) -> None:
    """A change that waits behind others in the explainer's queue is not begun once it is old."""
    with Client(start_server().address) as client:
        gate.opened.clear()
        first, second = (Camera(client, explain_on_change=FAST) for _ in range(2))
        first(RED)
        assert gate.entered.acquire(timeout=60)
        second(RED)
        second(GREEN)
        gate.opened.set()
        first.end()
        reported = [(one.frame_id, one.explanation) for one in second.end()]
        assert [(number, one.status.value) for number, one in reported if one is not None] == [
            (0, "superseded"), (1, "explained"),
        ]  # fmt: skip


def test_a_busy_server_reports_why_there_is_no_explanation(
    start_server: Callable[..., Any], gate: Gate
) -> None:
    server = start_server(service=ServiceSettings(max_waiting_explanations=0))
    with Client(server.address) as client:
        gate.opened.clear()
        first, second = (Camera(client, explain_on_change=FAST) for _ in range(2))
        first(RED)
        assert gate.entered.acquire(timeout=60)
        second(RED)
        change = second.hear().explanation
        assert change is not None
        assert change.status is ChangeStatus.OVERLOADED
        assert "1 explanations are running or waiting" in change.reason
        gate.opened.set()
        first.end()
        # Later changes are explained again.
        second(GREEN)
        change = second.hear().explanation
        assert change is not None
        assert change.status is ChangeStatus.EXPLAINED
        second.end()


def test_frames_that_wait_for_explanation_count_as_waiting_bytes(
    start_server: Callable[..., Any], gate: Gate
) -> None:
    server = start_server(service=ServiceSettings(max_waiting_bytes=RED.nbytes + 100))
    with Client(server.address) as client:
        gate.opened.clear()
        camera = Camera(client, explain_on_change=FAST)
        camera(RED)
        assert gate.entered.acquire(timeout=60)
        camera(GREEN)
        change = camera.hear().explanation
        assert change is not None
        assert change.status is ChangeStatus.OVERLOADED
        assert "at most 3,172 are held" in change.reason
        gate.opened.set()
        camera.end()
        assert server.server.runner.budget.held == 0


def test_a_change_that_cannot_be_explained_has_a_reason(client: Client) -> None:
    ids = np.zeros((5, 5), np.uint16)
    camera = Camera(client, explain_on_change={"segments": ids, "num_samples": 20})
    camera(RED)
    change = camera.hear().explanation
    assert change is not None
    assert change.status is ChangeStatus.FAILED
    assert "5x5; the upright image is 32x32" in change.reason
    camera.end()


def test_unexpected_errors_are_logged_and_not_sent(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from limelens.serve.explaining import pool as explainer

    def broken(*_arguments: Any, **_options: Any) -> Any:
        raise RuntimeError("a secret")

    monkeypatch.setattr(explainer, "explain_image", broken)
    camera = Camera(client, explain_on_change=FAST)
    camera(RED)
    change = camera.hear().explanation
    assert change is not None
    assert (change.status, change.reason) == (
        ChangeStatus.FAILED, "the server failed; see its log",
    )  # fmt: skip
    assert "a secret" in caplog.text
    camera.end()


def test_the_stream_waits_for_its_explanation_at_the_end(client: Client, gate: Gate) -> None:
    gate.opened.clear()
    camera = Camera(client, explain_on_change=FAST)
    camera(RED)
    assert gate.entered.acquire(timeout=60)
    camera(GREEN)
    threading.Timer(0.3, gate.opened.set).start()
    assert [one.frame_id for one in camera.end()] == [0, 1]


def test_the_wait_at_the_end_is_bounded(
    server: Any, client: Client, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limelens.serve.rpc import camera_stream as stream

    monkeypatch.setattr(stream, "EXPLAIN_AFTER_END_S", 0.2)
    gate.opened.clear()
    camera = Camera(client, explain_on_change=FAST)
    camera(RED)
    assert gate.entered.acquire(timeout=60)
    camera(GREEN)
    left = camera.end()
    assert [one.frame_id for one in left] == [0, 1]
    for one in left:
        assert one.explanation is not None
        assert one.explanation.status is ChangeStatus.UNFINISHED
    gate.opened.set()
    until(lambda: server.service.explainer.num_open == 0)
    assert gate.num_runs == 1
    assert server.server.runner.budget.held == 0


def test_a_camera_that_vanishes_leaves_no_work_behind(
    server: Any, client: Client, gate: Gate
) -> None:
    gate.opened.clear()
    long: Any = {**FAST, "num_segments": 100, "num_samples": 5000}
    camera = Camera(client, explain_on_change=long)
    camera(RED)
    assert gate.entered.acquire(timeout=60)
    camera(GREEN)
    camera.leave()
    until(lambda: not server.service.cameras)
    gate.opened.set()
    until(lambda: server.service.explainer.num_open == 0)
    # A chunk on each of its two threads, of several hundred.
    assert gate.num_runs <= 2
    assert server.server.runner.budget.held == 0


def test_a_server_that_goes_down_waits_for_no_camera(
    server: Any, client: Client, gate: Gate
) -> None:
    gate.opened.clear()
    camera = Camera(client, explain_on_change=FAST)
    camera(RED)
    assert gate.entered.acquire(timeout=60)
    stopping = threading.Thread(target=server.stop, args=(60,))
    stopping.start()
    with pytest.raises(UnavailableError):
        camera.hear()
    gate.opened.set()
    stopping.join()


def test_no_more_than_one_explanation_waits_for_a_slow_reader(server: Any, client: Client) -> None:
    answers = client.stream(
        (frame for _ in range(2000) for frame in (RED, GREEN)), explain_on_change=FAST
    )
    next(answers)
    (camera,) = server.service.cameras
    most = 0
    began = time.monotonic()
    answered: set[int] = set()
    for answer in answers:
        if answer.status is not FrameStatus.EXPLANATION:
            answered.add(answer.frame_id)
        if time.monotonic() - began < 1:
            slow_by(0.005)
        waiting = [one for one in camera.unread if one.explanation.HasField("explanation")]
        most = max(most, len(waiting))
    assert max(answered) == 3999
    assert len(answered) > 100
    assert most <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_samples": 5}, "config.explain_on_change.options.num_samples: 5; expected 10 to"),
        ({"labels": ["cat"]}, "config.explain_on_change.options.labels[0]: 'cat'; expected one of"),
        ({"model": "colours"}, "explain_on_change.model: given; expected none"),
        (
            {"segments": b"x" * (2**20 + 1)},
            "config.explain_on_change.options.segmentation.segments_png: 1,048,577 bytes",
        ),
        ({"num_samples": 10_001}, "config.explain_on_change.options.num_samples: 10001"),
    ],
)
def test_impossible_options_are_refused_at_once(client: Client, options: Any, words: str) -> None:
    assert Limits().max_samples == 10_000
    with pytest.raises(InvalidRequestError) as caught:
        list(client.stream([RED], explain_on_change=options))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"smoothing": (5, 3), "required_to_alert": 4},
            "config.smoothing.required_to_alert: 4 frames; expected 1 to 3",
        ),
        (
            {"smoothing": (5, 3), "required_to_alert": -1},
            "config.smoothing.required_to_alert: -1 frames",
        ),
        ({"max_decision_age_s": -1.0}, "config.max_decision_age_ms: -1000; expected 0 or more"),
    ],
)
def test_impossible_smoothing_is_refused(
    client: Client, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        list(client.stream([RED], **settings))
    assert words in str(caught.value)


def test_a_door_alerts_at_once_and_clears_after_some_frames(client: Client) -> None:
    camera = Camera(client, smoothing=(5, 3), required_to_alert=1)
    frames = (GREEN, GREEN, GREEN, RED, GREEN, GREEN, GREEN)
    assert [camera(frame).smoothed_label for frame in frames] == [
        None, None, "green", "red", "red", "red", "green",
    ]  # fmt: skip
    camera.end()


def test_a_decision_without_new_frames_becomes_unknown(client: Client) -> None:
    for max_age_s in ever_longer(0.5):
        camera = Camera(client, max_decision_age_s=max_age_s, smoothing=(3, 2))
        first, second = camera(RED), camera(RED)
        reported = camera.hear()  # without a frame
        after = [camera(RED).smoothed_label for _ in range(2)]
        if camera.end() == []:  # on a busy machine a decision may expire between two frames
            break
    assert first.state is CameraState.UNKNOWN
    assert (second.alert, second.state) == (True, CameraState.ALERT)
    assert (reported.status, reported.frame_id) == (FrameStatus.DECISION_EXPIRED, 1)
    assert reported.state is CameraState.UNKNOWN
    assert (reported.smoothed_label, reported.changed, reported.alert) == (None, True, False)
    # What was seen before no longer counts.
    assert after == [None, "red"]


def test_unreadable_frames_do_not_keep_a_decision(client: Client) -> None:
    camera = Camera(client, max_decision_age_s=0.3)
    assert camera(GREEN).state is CameraState.CLEAR
    until(lambda: camera(b"no image").state is CameraState.UNKNOWN)
    camera.end()
