"""Metrics of a real server, read over HTTP by Prometheus' own parsers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import yaml
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from tests.detectors import RED as RED_SQUARE
from tests.detectors import frame_of, save_detector
from tests.serve.paced import Paced
from tests.waiting import ever_longer, slow_by, until

from limelens.inference import inference_service_pb2 as inference_pb2
from limelens.inference import inference_service_pb2_grpc as inference_grpc
from limelens.serve import Client
from limelens.serve.bundle import Bundle
from limelens.serve.decisions.decision import Decision, Prediction
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    ServerError,
)
from limelens.serve.faces.options import FaceOptions
from limelens.serve.observing.metrics import Metrics
from limelens.serve.observing.observer import RequestClassified
from limelens.serve.repository.model_repository import Repository
from limelens.serve.rpc import camera_stream as stream
from limelens.serve.rpc.server_config import ServiceSettings
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc
from limelens.v1 import image_pb2

ROOT = Path(__file__).parents[3]


def colour(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((32, 32, 3), (red, green, blue), np.uint8)


RED, GREEN, GREY = colour(255, 0, 0), colour(0, 255, 0), colour(99, 99, 99)


def raw(pixels: np.ndarray) -> image_pb2.Image:
    height, width = pixels.shape[:2]
    return image_pb2.Image(
        raw=image_pb2.RawImage(height=height, width=width, data=pixels.tobytes())
    )


def request(*images: np.ndarray) -> service_pb2.ClassifyRequest:
    return service_pb2.ClassifyRequest(images=[raw(one) for one in images])


def test_calls_images_and_decisions_are_counted_exactly(
    watch: Callable[..., Any], gate: Any
) -> None:
    watched = watch()
    with Client(watched.address, max_attempts=1) as client:
        for _ in range(5):
            client.classify([RED, GREEN])
        client.classify([GREY])
        for _ in range(3):
            with pytest.raises(InvalidRequestError):
                client.classify([b"no image"])
        with pytest.raises(NotFoundError):
            client.classify([RED], model="nothing")
        client.embed([RED])
        client.models()
    gate.close()
    stub = watched.server.stub()
    calls = [stub.Classify.future(request(RED)) for _ in range(2)]
    for _ in calls:
        gate.wait_until_entered()
    assert watched.value("limelens_requests_in_flight", rpc="Classify") == 2
    assert watched.value("limelens_waiting_bytes") == 2 * request(RED).ByteSize()
    for call in calls:
        call.cancel()
    watched.wait_for(2, "limelens_request_seconds_count", code="CANCELLED")
    gate.opened.set()
    watched.wait_for(14, "limelens_pictures_total", fate="answered")

    counted = {
        (rpc, code): watched.value("limelens_request_seconds_count", rpc=rpc, code=code)
        for rpc, code in [
            ("Classify", "OK"),
            ("Classify", "INVALID_ARGUMENT"),
            ("Classify", "NOT_FOUND"),
            ("Classify", "CANCELLED"),
            ("Embed", "OK"),
            ("ListModels", "OK"),
        ]
    }
    assert list(counted.values()) == [6, 3, 1, 2, 1, 1]
    assert watched.value("limelens_request_seconds_count") == 14
    assert watched.value("limelens_request_seconds_count", priority="request") == 13
    assert watched.value("limelens_requests_in_flight") == 0
    assert watched.value("limelens_waiting_bytes") == 0
    assert watched.value("limelens_pictures_total", fate="unreadable") == 3
    assert watched.value("limelens_pictures_total", fate="failed") == 0
    assert watched.value("limelens_pictures_total", priority="frame") == 0
    assert watched.value("limelens_queue_seconds_count", priority="request") == 17
    assert watched.value("limelens_decode_seconds_count", model="colours") == 17
    assert watched.value("limelens_run_seconds_count") == 14
    assert watched.value("limelens_batch_pictures_sum") == 14
    assert watched.value("limelens_decisions_total", label="red") == 5
    assert watched.value("limelens_decisions_total", label="green") == 5
    assert watched.value("limelens_decisions_total", label="blue") == 0
    assert watched.value("limelens_abstentions_total", model="colours") == 1
    assert watched.value("limelens_alerts_total", source="request") == 5


class Camera:
    """Sends prepared frames."""

    def __init__(self, stub: Any, **config: Any) -> None:
        self._messages: list[Any] = []
        self._something = threading.Condition()
        self._ended = False
        self._send(service_pb2.ClassifyStreamRequest(config=service_pb2.StreamConfig(**config)))
        self.answers = stub.ClassifyStream(self._sent())

    def frame(self, number: int, image: image_pb2.Image) -> None:
        frame = service_pb2.Frame(frame_id=number, image=image)
        self._send(service_pb2.ClassifyStreamRequest(frame=frame))

    def end(self) -> list[Any]:
        with self._something:
            self._ended = True
            self._something.notify()
        return list(self.answers)

    def _send(self, message: Any) -> None:
        with self._something:
            self._messages.append(message)
            self._something.notify()

    def _sent(self) -> Iterator[Any]:
        while True:
            with self._something:
                while not self._messages and not self._ended:
                    self._something.wait()
                if not self._messages:
                    return
                message = self._messages.pop(0)
            yield message


def test_a_cameras_people_are_counted(watch: Callable[..., Any], tmp_path: Path) -> None:
    watched = watch(face_detector=str(save_detector(tmp_path)))
    left, right = (80, 160, 80, RED_SQUARE), (400, 160, 80, RED_SQUARE)
    frames = [frame_of(one) for one in ((), (left,), (left, right), (left, right))]
    with Client(watched.address, max_attempts=1) as client:
        options = FaceOptions(skip_still_frames=True, max_unseen_s=60)
        camera = Paced(client, faces=options)
        for frame in frames:
            camera(frame)
        camera.end()
    assert watched.value("limelens_frames_total", fate="classified") == 4
    assert watched.value("limelens_faces_total", issue="none") == 3
    # Each of the two alerted once. The frame in which nothing moved was not dropped.
    assert watched.value("limelens_alerts_total", source="camera") == 2
    assert watched.value("limelens_pictures_total", fate="dropped") == 0


def test_every_frame_is_counted_by_its_status(watch: Callable[..., Any], gate: Any) -> None:
    watched = watch()
    gate.close()
    camera = Camera(watched.server.stub(), camera_id="door")
    camera.frame(0, raw(GREEN))
    gate.wait_until_entered()
    assert watched.value("limelens_streams_open") == 1
    for number in (1, 2, 3):
        camera.frame(number, raw(RED))
    watched.wait_for(2, "limelens_frames_total", fate="superseded")
    camera.frame(3, raw(RED))
    camera.frame(4, image_pb2.Image(encoded=b""))
    watched.wait_for(1, "limelens_frames_total", fate="out_of_order")
    gate.opened.set()
    watched.wait_for(2, "limelens_frames_total", fate="classified")
    camera.frame(5, raw(RED))
    watched.wait_for(3, "limelens_frames_total", fate="classified")
    camera.frame(6, image_pb2.Image(encoded=b"no image"))
    assert len(camera.end()) == 8
    watched.wait_for(0, "limelens_streams_open")

    assert watched.value("limelens_frames_total", fate="classified", model="colours") == 3
    assert watched.value("limelens_frames_total", fate="superseded") == 2
    assert watched.value("limelens_frames_total", fate="out_of_order") == 1
    assert watched.value("limelens_frames_total", fate="invalid") == 2
    assert watched.value("limelens_frames_total") == 8
    assert watched.value("limelens_frame_seconds_count") == 3
    assert watched.value("limelens_pictures_total", priority="frame", fate="answered") == 3
    assert watched.value("limelens_pictures_total", priority="frame", fate="unreadable") == 1
    # The decision changed to red once, however many frames say so.
    assert watched.value("limelens_alerts_total", source="camera") == 1
    assert watched.value("limelens_decisions_total", label="red") == 2
    frames = {"rpc": "ClassifyStream", "priority": "frame", "code": "OK"}
    assert watched.value("limelens_request_seconds_count", **frames) == 1


def test_a_stale_frame_is_counted_as_such(watch: Callable[..., Any], gate: Any) -> None:
    watched = watch(num_threads=1)
    gate.close()
    with Client(watched.address) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(client.classify, [RED])
        gate.wait_until_entered()
        camera = Camera(watched.server.stub(), camera_id="door", max_frame_age_ms=1)
        camera.frame(0, raw(RED))
        until(lambda: [one for one in watched.server.service.cameras if one.waiting])
        slow_by(0.01)
        gate.opened.set()
        first.result()
        assert len(camera.end()) == 1
    assert watched.value("limelens_frames_total", fate="stale") == 1
    assert watched.value("limelens_pictures_total", priority="frame", fate="dropped") == 1


async def test_answers_that_a_camera_does_not_read_are_counted(
    watch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_UNREAD", 50)
    monkeypatch.setattr(stream, "MAX_LOST", 200)
    watched = watch()
    text = image_pb2.Image(encoded=b"x" * 600)  # no image, so that each answer is long
    config = service_pb2.StreamConfig(camera_id="door")
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384)]
    async with grpc.aio.insecure_channel(watched.address, small_window) as channel:
        stub = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
        call = stub.ClassifyStream()
        await call.write(service_pb2.ClassifyStreamRequest(config=config))

        async def flood() -> None:
            while True:
                frame = service_pb2.Frame(image=text)
                await call.write(service_pb2.ClassifyStreamRequest(frame=frame))

        writing = asyncio.create_task(flood())
        async with asyncio.timeout(120):
            await asyncio.to_thread(
                until, lambda: watched.value("limelens_lost_answers_total") >= 201
            )
            with pytest.raises(grpc.RpcError):
                async for _ in call:
                    pass
            await asyncio.gather(writing, return_exceptions=True)
    lost = await asyncio.to_thread(watched.value, "limelens_lost_answers_total", model="colours")
    assert lost == 201


def test_abandoned_images_are_counted_as_dropped(watch: Callable[..., Any], gate: Any) -> None:
    watched = watch(num_threads=1)
    gate.close()
    with Client(watched.address, max_attempts=1) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(client.classify, [RED])
        gate.wait_until_entered()
        for timeout_s in ever_longer(1.001):  # is sent as 1.01
            with pytest.raises(ExpiredError):
                client.classify([GREEN, GREEN], timeout_s=timeout_s)
            until(lambda: watched.server.server.open_calls.count == 1)
            # It may expire before it reaches a busy server, or be late there and seem cancelled.
            if watched.value("limelens_request_seconds_count", code="DEADLINE_EXCEEDED"):
                break
        gate.opened.set()
        first.result()
    until(lambda: watched.value("limelens_pictures_total", fate="dropped") >= 2)
    assert watched.value("limelens_pictures_total", fate="answered") == 1


def test_images_refused_by_a_full_queue_are_counted(watch: Callable[..., Any], gate: Any) -> None:
    watched = watch(num_threads=1, service=ServiceSettings(max_queue=2))
    gate.close()
    with Client(watched.address, max_attempts=1) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(client.classify, [RED])
        gate.wait_until_entered()
        second = pool.submit(client.classify, [RED, RED])
        watched.wait_for(2, "limelens_queue_pictures")
        with pytest.raises(OverloadedError):
            client.classify([RED, RED])
        gate.opened.set()
        first.result()
        second.result()
    assert watched.value("limelens_refused_pictures_total") == 2
    assert watched.value("limelens_queue_pictures") == 0
    assert watched.value("limelens_request_seconds_count", code="RESOURCE_EXHAUSTED") == 1


def test_explanations_are_counted_with_samples_and_stability(
    watch: Callable[..., Any], gate: Any
) -> None:
    watched = watch()
    image = np.concatenate([RED, GREEN], axis=1)
    with Client(watched.address, max_attempts=1) as client:
        client.explain(image, num_samples=50)
        for update in client.explain_stream(image, num_samples=200):
            last = update
        with pytest.raises(InvalidRequestError):
            client.explain(b"no image")
    assert last.num_samples == 200
    gate.close()
    call = watched.server.stub().Explain.future(
        service_pb2.ExplainRequest(image=raw(image), num_samples=100)
    )
    gate.wait_until_entered()
    call.cancel()
    watched.wait_for(1, "limelens_explanations_total", fate="cancelled")
    watched.wait_for(4, "limelens_request_seconds_count", priority="explanation")
    gate.opened.set()

    assert watched.value("limelens_explanations_total", fate="done", model="colours") == 2
    assert watched.value("limelens_explanations_total", fate="invalid") == 1
    assert watched.value("limelens_explanations_total") == 4
    assert watched.value("limelens_explanation_samples_total") == 250
    assert watched.value("limelens_explanation_seconds_count") == 2
    assert watched.value("limelens_explanation_stability_count") == 2


def test_labels_of_several_an_image_are_all_counted(
    watch: Callable[..., Any], models: Path
) -> None:
    watched = watch(models)
    with Client(watched.address) as client:
        client.classify([colour(255, 255, 0)], model="tags")
        client.classify([RED], model="colours", version=1)
        client.classify([RED], model="colours", version=2)
    assert watched.value("limelens_decisions_total", model="tags", label="red") == 1
    assert watched.value("limelens_decisions_total", model="tags", label="green") == 1
    assert watched.value("limelens_decisions_total", model="tags") == 2
    # Versions of a model share their series.
    assert watched.value("limelens_decisions_total", model="colours", label="red") == 2
    assert watched.value("limelens_model_info", model="colours") == 2
    assert (
        watched.value(
            "limelens_model_info",
            model="tags",
            version="1",
            provider="CPUExecutionProvider",
            precision="fp32",
        )
        == 1
    )


def test_a_model_of_many_labels_has_few_series(one_model: Path) -> None:
    repository = Repository(one_model, "cpu", num_threads=1)
    metrics = Metrics(repository, max_labels=2)
    (served,) = repository.served
    for label, times in (("red", 1), ("green", 2), ("blue", 4)):
        prediction = Prediction(Decision.LABEL, label, (), False, (), 0.5, None)
        metrics.request_classified(RequestClassified(served, (), [prediction] * times, 0.0))
    found = {
        sample.labels["label"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "limelens_decisions_total"
    }
    assert found == {"red": 1, "green": 2, "other": 4}


def test_unusable_numbers_of_a_model_are_counted(
    watch: Callable[..., Any], afraid_of_the_dark: Path
) -> None:
    watched = watch(afraid_of_the_dark)
    with Client(watched.address, max_attempts=1) as client:
        with pytest.raises(ServerError):
            client.classify([colour(0, 0, 0)])
        with pytest.raises(ServerError):
            client.explain(colour(0, 0, 0), num_samples=10)
        (answer,) = client.stream([colour(0, 0, 0)])
    assert answer.status.value == "failed"
    assert watched.value("limelens_not_finite_total", model="colours") == 3
    assert watched.value("limelens_pictures_total", fate="failed") == 2
    assert watched.value("limelens_frames_total", fate="failed") == 1
    assert watched.value("limelens_explanations_total", fate="failed") == 1
    assert watched.value("limelens_request_seconds_count", code="INTERNAL") == 2


def test_explanations_of_a_cameras_changes_are_counted_as_all_others(
    watch: Callable[..., Any], afraid_of_the_dark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch(afraid_of_the_dark)
    noted: list[bool] = []
    note = watched.server.repository.record

    def noting(bundle: Any, *, ok: bool) -> None:
        noted.append(ok)
        note(bundle, ok=ok)

    monkeypatch.setattr(watched.server.repository, "record", noting)
    reddish = colour(250, 9, 9)
    options: Any = {"segmentation": "grid", "num_segments": 4, "num_samples": 20}
    with Client(watched.address, max_attempts=1) as client:
        frame, news = client.stream([reddish], explain_on_change=options)
        assert news.explanation is not None
        assert news.explanation.status.value == "explained"
        # Samples without any segment are black, which the model cannot answer.
        dark: Any = {**options, "hide": (0, 0, 0)}
        frame, news = client.stream([reddish], explain_on_change=dark)
        assert frame.status.value == "classified"
        assert news.explanation is not None
        assert news.explanation.status.value == "failed"
    assert watched.value("limelens_explanations_total", fate="done", model="colours") == 1
    assert watched.value("limelens_explanations_total", fate="failed") == 1
    assert watched.value("limelens_explanation_samples_total") == 20
    assert watched.value("limelens_not_finite_total", model="colours") == 1
    assert noted == [True, True, True, False]  # each frame, then its explanation


def test_the_explanation_for_a_camera_that_left_counts_as_cancelled(
    watch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, begun, goes_on = Bundle.predict, threading.Event(), threading.Event()

    def held(self: Bundle, images: np.ndarray) -> np.ndarray:
        if not threading.current_thread().name.startswith("limelens-worker"):
            begun.set()
            assert goes_on.wait(120)
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", held)
    watched = watch()
    options: Any = {"segmentation": "grid", "num_segments": 64, "num_samples": 5000}
    hold = threading.Event()

    def frames() -> Iterator[Any]:
        yield RED
        hold.wait(60)

    with Client(watched.address, max_attempts=1) as client:
        answers = client.stream(frames(), explain_on_change=options)
        next(answers)
        assert begun.wait(60)
        answers.close()
        hold.set()
        watched.wait_for(1, "limelens_explanations_total", fate="cancelled")
        goes_on.set()


def test_refused_versions_and_failures_to_load_are_counted(
    watch: Callable[..., Any], tmp_path: Path, bundles: Any
) -> None:
    good = bundles.save(tmp_path, bundles.metadata(), 1)
    second = tmp_path / "colours" / "2" / "model.onnx"
    second.parent.mkdir()
    second.write_bytes(good.read_bytes()[:100])
    watched = watch(tmp_path)
    assert watched.value("limelens_refused_versions", model="colours") == 1
    assert watched.value("limelens_load_failures_total") == 1
    assert watched.value("limelens_model_info", version="2") == 0
    second.write_bytes(good.read_bytes())
    watched.server.repository.refresh()
    assert watched.value("limelens_refused_versions", model="colours") == 0
    assert watched.value("limelens_load_failures_total") == 1
    assert watched.value("limelens_model_info", version="2") == 1


def test_a_folders_name_overrides_the_name_in_the_file(
    watch: Callable[..., Any], tmp_path: Path, bundles: Any
) -> None:
    bundles.save(tmp_path, bundles.metadata(), 1)
    (tmp_path / "colours").rename(tmp_path / "renamed")
    watched = watch(tmp_path)
    with Client(watched.address) as client:
        client.classify([RED])
    assert watched.value("limelens_pictures_total", model="renamed", fate="answered") == 1
    assert watched.value("limelens_decisions_total", model="renamed", label="red") == 1


def test_scrapes_under_load_lose_nothing(watch: Callable[..., Any]) -> None:
    watched = watch()

    def call() -> None:
        with Client(watched.address) as client:
            for _ in range(25):
                client.classify([RED])

    def scrape() -> list[float]:
        return [watched.value("limelens_decisions_total", label="red") for _ in range(10)]

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call) for _ in range(4)]
        scrapes = [pool.submit(scrape) for _ in range(4)]
        for one in calls:
            one.result()
        for seen in scrapes:
            assert seen.result() == sorted(seen.result())
    assert watched.value("limelens_decisions_total", label="red") == 100
    assert watched.value("limelens_request_seconds_count", code="OK") == 100


def test_two_servers_count_for_themselves(watch: Callable[..., Any]) -> None:
    one, other = watch(), watch()
    with Client(one.address) as client:
        client.classify([RED])
    assert one.value("limelens_decisions_total") == 1
    assert other.value("limelens_decisions_total") == 0


def test_openmetrics_is_sent_to_clients_that_accept_it(watch: Callable[..., Any]) -> None:
    watched = watch()
    with Client(watched.address) as client:
        client.classify([RED])
    plain = watched.get("/metrics")
    assert plain.content_type.startswith("text/plain")
    page = watched.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert page.content_type.startswith("application/openmetrics-text")
    found = {family.name: family for family in openmetrics_families(page.text)}  # type: ignore[no-untyped-call]
    assert found["limelens_decisions"].type == "counter"
    assert found["limelens_model"].type == "info"
    same = {family.name.removesuffix("_info") for family in families(plain.text)}
    assert {name.removesuffix("_info") for name in found} == same


def families(text: str) -> list[Any]:
    """Leaves out when series began, which the plain format gives as series."""
    return [
        family
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")
    ]


def exposed(watched: Any) -> dict[str, set[str]]:
    """Names of metrics as queries write them, with the names of their labels."""
    found: dict[str, set[str]] = {}
    for family in families(watched.get("/metrics").text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {key for sample in family.samples for key in sample.labels} - {"le"}
        found[name] = labels
    return found


def documented() -> dict[str, set[str]]:
    """The table in docs/operating.md: name and labels of each row."""
    text = (ROOT / "docs" / "operating.md").read_text()
    return {
        name: set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(\w+)` \| [^|]* \|([^|]*)\|", text, re.MULTILINE)
    }


def test_the_table_of_metrics_matches_a_server(watch: Callable[..., Any]) -> None:
    watched = watch()
    with Client(watched.address) as client:
        client.classify([RED])
    found = exposed(watched)
    reported = documented()
    of_others = {"limelens_workers", "limelens_worker_restarts_total"}
    of_others |= {one for one in reported if one.startswith("limelens_drift_")}
    for one in of_others:
        del reported[one]
    assert set(found) == set(reported)
    for name, labels in reported.items():
        if name not in ("python_info", "limelens_build_info"):
            assert found[name] == labels, name


def test_statuses_of_frames_are_those_in_the_table(watch: Callable[..., Any]) -> None:
    reported = {
        sample.labels["fate"]
        for family in families(watch().get("/metrics").text)
        for sample in family.samples
        if sample.name == "limelens_frames_total"
    }
    text = (ROOT / "docs" / "operating.md").read_text()
    (row,) = re.findall(r"^\| `limelens_frames_total` .*`fate` \((.*)\) \|$", text, re.MULTILINE)
    assert reported == set(row.split(", "))


def test_the_alert_rules_use_metrics_that_exist(watch: Callable[..., Any]) -> None:
    watched = watch()
    known = exposed(watched) | documented()
    known |= {f"{name}_{part}": set() for name in [*known] for part in ("bucket", "sum", "count")}
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus-rules.yml").read_text())
    found = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len(found) >= 3
    for rule in found:
        assert {"alert", "expr", "for", "labels", "annotations"} <= set(rule)
        assert rule["annotations"]["summary"]
        names = re.findall(r"\b(?:limelens|process)_\w+", rule["expr"])
        assert names or "up{" in rule["expr"]  # that one is Prometheus' own
        assert set(names) <= set(known), rule["alert"]


def test_calls_that_run_no_model_have_no_priority(watch: Callable[..., Any]) -> None:
    watched = watch()
    infer = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    reported = [
        one.name for one in infer.methods if one.name not in ("ModelInfer", "ModelStreamInfer")
    ]
    with grpc.insecure_channel(watched.address) as channel:
        stub = inference_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        for name in reported:
            asked = getattr(inference_pb2, infer.methods_by_name[name].input_type.name)()
            with contextlib.suppress(grpc.RpcError):
                getattr(stub, name)(asked, timeout=60)
    assert watched.value("limelens_request_seconds_count") == len(reported)
    assert watched.value("limelens_request_seconds_count", priority="none") == len(reported)


def test_without_the_port_nothing_is_counted_or_opened(start_server: Callable[..., Any]) -> None:
    server = start_server().server
    assert server.http is None
    with Client(server.address) as client:
        assert client.models()


def test_the_names_of_unknown_models_make_no_series(watch: Callable[..., Any]) -> None:
    watched = watch()
    with Client(watched.address, max_attempts=1) as client:
        for number in range(3):
            with pytest.raises(NotFoundError):
                client.classify([RED], model=f"wrong-{number}")
    assert "wrong-" not in watched.get("/metrics").text


def test_a_bundle_out_of_service_is_still_counted(
    watch: Callable[..., Any], gate: Any, tmp_path: Path, bundles: Any
) -> None:
    path = bundles.save(tmp_path, bundles.metadata(), 1)
    watched = watch(tmp_path)
    gate.close()
    with Client(watched.address) as client, ThreadPoolExecutor() as pool:
        held = pool.submit(client.classify, [RED])
        gate.wait_until_entered()
        path.write_bytes(
            bundles.model(replace(bundles.metadata(), threshold=0.6)).SerializeToString()
        )
        assert watched.server.repository.refresh()
        gate.opened.set()
        held.result()
        client.classify([RED])
    assert watched.value("limelens_pictures_total", model="colours", fate="answered") == 2
    assert watched.value("limelens_decisions_total", model="colours", label="red") == 2
