"""ExplainStream against a real server, and what Explain has in common with it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.serve.rpc.conftest import FAR_FROM_ALL, MANY, Gate
from tests.waiting import slow_by, until

from limelens.serve import Client
from limelens.serve.client.in_process import local_client
from limelens.serve.errors import (
    ExpiredError,
    InvalidImageError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
)
from limelens.serve.rpc.server_config import ServiceSettings
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2

pytest.importorskip("skimage")

SIDE = 96
OPTIONS: dict[str, Any] = {"segmentation": "grid", "num_segments": 16, "hide": (0, 0, 0)}


def scene() -> np.ndarray:
    """Grey, with a red corner at the top left that makes the image red."""
    pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
    pixels[: SIDE // 2, : SIDE // 2] = 255, 0, 0
    return pixels


def request(**fields: Any) -> service_pb2.ExplainRequest:
    file = io.BytesIO()
    Image.fromarray(scene()).save(file, "PNG")
    return service_pb2.ExplainRequest(image=image_pb2.Image(encoded=file.getvalue()), **fields)


@pytest.fixture
def until_idle(server: Any) -> Callable[[], float]:
    """Waits until the server explains nothing any more."""
    return lambda: until(lambda: server.service.explainer.num_open == 0)


@pytest.fixture(params=["server", "file"])
def asked(request: pytest.FixtureRequest, one_model: Path) -> Any:
    """A client of a server, or of a model file in this process."""
    if request.param == "file":
        return local_client(one_model / "colours" / "1", "cpu")
    return request.getfixturevalue("client")


@pytest.mark.usefixtures("slow")
def test_each_message_is_a_better_explanation_and_the_last_is_explains(asked: Client) -> None:
    arguments = {**OPTIONS, "num_samples": 600, "seed": 4, "labels": ["red", "blue"]}
    updates = list(asked.explain_stream(scene(), renderings=["overlay"], **arguments))
    assert len(updates) >= 3
    counts = [update.num_samples for update in updates]
    assert counts == sorted(set(counts))
    assert counts[-1] == 600
    assert [update.is_final for update in updates] == [False] * (len(updates) - 1) + [True]
    for update in updates:
        assert update.max_samples == 600
        assert update.explanation.num_samples == update.num_samples
        assert update.stability == min(one.stability for one in update.explanation.explanations)
        assert [one.label for one in update.explanation.explanations] == ["red", "blue"]
        assert update.explanation.explanations[0].overlay_png.startswith(b"\x89PNG")
    whole = asked.explain(scene(), renderings=["overlay"], **arguments)
    last = updates[-1].explanation
    assert last.explanations == whole.explanations
    assert last.warnings == whole.warnings
    assert last.num_segments == whole.num_segments


def test_a_stability_that_is_reached_ends_the_stream_below_the_cap(asked: Client) -> None:
    arguments = {**OPTIONS, "num_segments": 4, "stability": 0.5, "max_samples": 5000, "seed": 1}
    last = list(asked.explain_stream(scene(), **arguments))[-1]
    assert last.is_final
    assert last.stability >= 0.5
    assert last.num_samples < last.max_samples == 5000
    assert asked.explain(scene(), **arguments).explanations == last.explanation.explanations


def test_a_slow_reader_still_gets_the_last_message(
    server: Any, until_idle: Callable[[], float], slow: list[float]
) -> None:
    call = server.stub().ExplainStream(request(num_samples=2000))
    until(lambda: len(slow) >= 2000 / 32)
    until_idle()
    messages = list(call)
    assert messages[-1].final
    assert messages[-1].num_samples == 2000


def test_a_cancelled_stream_stops_soon_and_leaves_nothing(
    start_server: Callable[..., Any], crawling: list[float]
) -> None:
    server = start_server(service=ServiceSettings(max_explanations=1, max_waiting_explanations=0))
    stub = server.stub()
    call = stub.ExplainStream(request(num_samples=MANY))
    assert not next(call).final
    call.cancel()
    until(lambda: server.service.explainer.num_open == 0)
    assert len(crawling) < FAR_FROM_ALL
    # Its place is free: with none to wait in, this would be refused.
    assert stub.Explain(request(num_samples=50)).num_samples == 50


def test_closing_the_iterator_stops_the_work(
    asked: Client, until_idle: Callable[[], float], crawling: list[float]
) -> None:
    updates = asked.explain_stream(scene(), num_samples=MANY, **OPTIONS)
    assert not next(updates).is_final
    updates.close()
    until_idle()
    assert len(crawling) < FAR_FROM_ALL


def test_past_its_deadline_a_stream_ends_soon(
    client: Client, until_idle: Callable[[], float], crawling: list[float]
) -> None:
    updates = client.explain_stream(scene(), num_samples=MANY, timeout_s=1.5, **OPTIONS)
    with pytest.raises(ExpiredError):
        list(updates)
    until_idle()
    assert len(crawling) < FAR_FROM_ALL
    assert client.explain(scene(), num_samples=50, **OPTIONS).explanations


def test_streams_count_as_explanations(
    start_server: Callable[..., Any], crawling: list[float]
) -> None:
    server = start_server(service=ServiceSettings(max_explanations=1, max_waiting_explanations=0))
    with Client(server.address, max_attempts=1) as client:
        updates = client.explain_stream(scene(), num_samples=MANY, **OPTIONS)
        next(updates)
        with pytest.raises(OverloadedError):
            client.explain(scene(), **OPTIONS)
        with pytest.raises(OverloadedError):
            next(client.explain_stream(scene(), **OPTIONS))
        assert client.classify(scene())[0].label == "red"
        updates.close()
    assert crawling


def test_a_server_that_stops_ends_its_streams(
    start_server: Callable[..., Any], crawling: list[float]
) -> None:
    server = start_server()
    call = server.stub().ExplainStream(request(num_samples=MANY))
    next(call)
    server.stop(grace_s=0.2)
    with pytest.raises(grpc.RpcError):
        list(call)
    assert server.service.explainer.num_open == 0
    assert len(crawling) < FAR_FROM_ALL


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (InvalidRequestError, {"num_samples": 3}),
        (InvalidRequestError, {"labels": ["pink"]}),
        (NotFoundError, {"model": "elsewhere"}),
    ],
)
def test_requests_that_explain_refuses_are_refused(
    client: Client, error: type[Exception], arguments: dict[str, Any]
) -> None:
    with pytest.raises(error):
        list(client.explain_stream(scene(), **arguments))


def test_an_image_that_cannot_be_read_is_named(asked: Client) -> None:
    with pytest.raises(InvalidImageError, match="HTML") as caught:
        list(asked.explain_stream(b"<!doctype html><html></html>"))
    assert caught.value.field == "image.encoded"


def test_the_best_explanation_in_some_time_comes_in_that_time(
    asked: Client, crawling: list[float]
) -> None:
    began = time.monotonic()
    found = asked.explain(scene(), num_samples=MANY, deadline_ms=400, **OPTIONS)
    assert time.monotonic() - began < 30  # all of them take longer
    assert 32 <= found.num_samples < MANY
    assert any("deadline of 400 ms passed" in warning for warning in found.warnings)
    assert found.explanations[0].label == "red"
    num_calls = len(crawling)
    last = list(asked.explain_stream(scene(), num_samples=MANY, deadline_ms=400, **OPTIONS))[-1]
    assert last.is_final
    assert 32 <= last.num_samples < last.max_samples == MANY
    assert len(crawling) > num_calls


def test_time_spent_waiting_counts_against_the_deadline(
    start_server: Callable[..., Any], gate: Gate
) -> None:
    server = start_server(service=ServiceSettings(max_explanations=1))
    stub = server.stub()
    gate.opened.clear()
    running = stub.Explain.future(request(num_samples=1600))
    assert gate.entered.acquire(timeout=60)
    waiting = stub.Explain.future(request(num_samples=1600, deadline_ms=300))
    until(lambda: server.service.explainer.num_open == 2)
    slow_by(0.4)
    gate.opened.set()
    found = waiting.result()
    assert running.result().num_samples == 1600
    assert found.num_samples == 32
    assert any("deadline of 300 ms passed after 32 of 1600" in one for one in found.warnings)


def test_a_contrast_is_the_difference_of_both_labels(asked: Client) -> None:
    arguments = {**OPTIONS, "num_samples": 300, "seed": 2}
    both = asked.explain(scene(), labels=["red", "blue"], **arguments).explanations
    (contrast,) = asked.explain(
        scene(), contrasts=[("red", "blue")], renderings=["overlay", "heat_map"], **arguments
    ).explanations
    assert (contrast.label, contrast.against) == ("red", "blue")
    assert contrast.probability == pytest.approx(both[0].probability - both[1].probability)
    weights = [{one.segment: one.weight for one in found.weights} for found in both]
    for one in contrast.weights:
        assert one.weight == pytest.approx(weights[0][one.segment] - weights[1][one.segment])
    assert contrast.overlay_png.startswith(b"\x89PNG")
    assert contrast.heat_map_png.startswith(b"\x89PNG")
    assert both[0].against is None


def test_contrasts_come_after_the_labels(client: Client) -> None:
    found = client.explain(
        scene(), top_labels=1, contrasts=[("blue", "green"), ("red", "green")], **OPTIONS
    )
    pairs = [(one.label, one.against) for one in found.explanations]
    assert pairs == [("red", None), ("blue", "green"), ("red", "green")]


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"contrasts": [("red", "pink")]}, "contrasts[0].against", "'pink'; expected one of red"),
        ({"contrasts": [("red", "red")]}, "contrasts[0].against", "expected another label"),
        ({"contrasts": [("red", "blue")] * 2}, "contrasts[1]", "is given twice"),
        ({"max_samples": 100}, "max_samples", "without stability"),
        ({"max_samples": 100, "num_samples": 50, "stability": 0.9}, "max_samples", "together"),
        ({"max_samples": 10**6, "stability": 0.9}, "max_samples", "expected 10 to 10000"),
        ({"deadline_ms": -1}, "deadline_ms", "expected 0 or more"),
    ],
)
def test_wrong_arguments_are_named(
    client: Client, arguments: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.explain(scene(), **arguments)
    assert caught.value.field == field
    assert words in caught.value.description


def test_many_streams_at_once_each_get_their_own_answer(server: Any) -> None:
    answers: dict[int, Any] = {}

    def ask(seed: int) -> None:
        with Client(server.address) as client:
            answers[seed] = list(client.explain_stream(scene(), seed=seed, **OPTIONS))[-1]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[seed].explanation.seed for seed in range(6)] == list(range(6))
    assert all(answer.is_final for answer in answers.values())


@pytest.mark.parametrize("method", ["lime", "kernel_shap", "occlusion", "rise"])
@pytest.mark.parametrize("hide", ["blur", "shuffle"])
def test_every_method_and_fill_goes_over_the_wire(
    client: Client, one_model: Path, method: Any, hide: Any
) -> None:
    arguments = {**OPTIONS, "hide": hide, "method": method, "num_samples": 100, "seed": 3}
    found = client.explain(scene(), **arguments)
    assert found.method == method
    last = list(client.explain_stream(scene(), **arguments))[-1]
    assert last.is_final
    assert last.num_samples == last.max_samples == found.num_samples
    assert last.explanation.explanations == found.explanations
    here = local_client(one_model / "colours" / "1", "cpu")
    assert here.explain(scene(), **arguments).explanations == found.explanations
