"""Classify against a real server."""

from __future__ import annotations

import concurrent.futures
import csv
import io
import itertools
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.serve.rpc.conftest import Gate, refused
from tests.waiting import ever_longer, until

from limelens.serve import Client
from limelens.serve.bundle import Bundle, Task
from limelens.serve.decisions.decision import Decision
from limelens.serve.errors import (
    ExpiredError,
    ImageTooLargeError,
    InvalidImageError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    ServerError,
)
from limelens.serve.image import Region
from limelens.serve.rpc.server_config import Limits, ServiceSettings
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
GREEN = np.full((8, 8, 3), (0, 255, 0), np.uint8)
BLUE = np.full((8, 8, 3), (0, 0, 255), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_images_are_classified_in_their_order(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "blue.png"
    path.write_bytes(png(BLUE))
    began = time.monotonic()
    found = client.classify([RED, png(GREEN), path, str(path)], embedding=True)
    assert [one.label for one in found] == ["red", "green", "blue", "blue"]
    assert [one.alert for one in found] == [True, False, False, False]
    assert (found.model.name, found.model.version) == ("colours", 1)
    assert found.model.provider == "CPUExecutionProvider"
    assert found[0].embedding == pytest.approx((1, 0, 0), abs=1e-5)
    assert found[0].decision is Decision.LABEL
    assert 0 < found.timings_ms.total <= 1000 * (time.monotonic() - began)


def test_one_image_needs_no_list(client: Client) -> None:
    assert client.classify(RED)[0].label == "red"
    assert client.classify(png(RED))[0].label == "red"


def test_a_grey_image_abstains_and_a_threshold_changes_that(client: Client) -> None:
    grey = np.full((8, 8, 3), 128, np.uint8)
    found = client.classify(grey)[0]
    assert (found.decision, found.label) == (Decision.ABSTAINED, None)
    found = client.classify(grey, threshold=0.0, top_k=1)[0]
    assert found.label == "red"
    assert len(found.scores) == 1


def test_only_the_region_of_interest_is_used(client: Client) -> None:
    both = np.concatenate([RED, BLUE], axis=1)
    assert client.classify(both, region=Region(0, 0, 0.5, 1))[0].label == "red"
    assert client.classify(png(both), region=Region(0.5, 0, 1, 1))[0].label == "blue"


def test_large_arrays_travel_as_png_without_loss(client: Client) -> None:
    large = np.random.default_rng(0).integers(0, 256, (40, 40_000, 3), dtype=np.uint8)
    assert large.nbytes > 4 * 1024 * 1024
    small = large[:, :20_000]
    assert client.classify(large, region=Region(0, 0, 0.5, 1))[0] == client.classify(small)[0]


def test_versions_and_models_are_chosen(start_server: Callable[..., Any], models: Path) -> None:
    server = start_server(models)
    # 0.83: over the threshold of version 1, below that of version 2.
    reddish = np.full((8, 8, 3), (170, 90, 90), np.uint8)
    with Client(server.address) as client:
        newest = client.classify(reddish, model="colours")
        first = client.classify(reddish, model="colours", version=1)
        assert (newest.model.version, newest[0].label) == (2, None)
        assert (first.model.version, first[0].label) == (1, "red")
        tags = client.classify(np.full((8, 8, 3), 255, np.uint8), model="tags")[0]
        assert tags.labels == ("red", "green", "blue")
        assert tags.label is None
        assert tags.alert
        with pytest.raises(InvalidRequestError, match="expected one of colours, tags"):
            client.classify(RED)
        with pytest.raises(NotFoundError, match="there are colours, tags") as caught:
            client.classify(RED, model="cats")
        assert (caught.value.kind, caught.value.name) == ("model", "cats")
        with pytest.raises(NotFoundError, match="there are 1, 2"):
            client.classify(RED, model="colours", version=7)


def test_every_file_of_the_bad_set_gets_a_response(server: Any, data_folder: Path) -> None:
    """And none of them harms the server."""
    folder = data_folder / "badimages"
    with (folder / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    errors = {"invalid": InvalidImageError, "too_large": ImageTooLargeError}
    with Client(server.address) as client:
        for row in rows:
            path = folder / row["file"]
            if row["expected"] == "ok":
                assert len(client.classify([RED, path])) == 2, row
            else:
                with pytest.raises(errors[row["expected"]]) as caught:
                    client.classify([RED, path])
                assert caught.value.field == "images[1].encoded", row
                assert caught.value.description, row
        assert client.classify(RED)[0].label == "red"


def test_one_truncated_jpeg_names_itself_and_the_reason(server: Any) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    images = [image_pb2.Image(encoded=data) for data in (png(RED), file.getvalue()[:2000])]
    error, details = refused(
        lambda: server.stub().Classify(service_pb2.ClassifyRequest(images=images))
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details["BadRequest"].field_violations
    assert violation.field == "images[1].encoded"
    assert "truncated" in violation.description
    assert "images[1].encoded" in (error.details() or "")
    assert details["ErrorInfo"].reason == "INVALID_IMAGE"


def image(**fields: Any) -> image_pb2.Image:
    return image_pb2.Image(**{"encoded": png(RED), **fields})


def raw(**fields: Any) -> image_pb2.Image:
    return image_pb2.Image(
        raw=image_pb2.RawImage(**{"data": RED.tobytes(), "height": 8, "width": 8, **fields})
    )


def region(left: float, top: float, right: float, bottom: float) -> image_pb2.RegionOfInterest:
    return image_pb2.RegionOfInterest(left=left, top=top, right=right, bottom=bottom)


NAN = float("nan")


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"images": []}, "images", "0 images; expected 1 to 64"),
        ({"images": [image()] * 65}, "images", "65 images; expected 1 to 64"),
        ({"images": [image(), image_pb2.Image()]}, "images[1]", "no image"),
        ({"images": [image(encoded=b"")]}, "images[0].encoded", "no bytes"),
        ({"images": [raw(data=b"abc")]}, "images[0].raw", "3 bytes; expected 8x8x3 = 192"),
        ({"images": [raw(height=0)]}, "images[0].raw", "size 0x8; expected at least 1x1"),
        ({"images": [raw(width=-8)]}, "images[0].raw", "size 8x-8"),
        ({"images": [raw(height=2**31 - 1, width=2**31 - 1)]}, "images[0].raw", "the limit is"),
        (
            {"images": [image(region_of_interest=region(0.5, 0, 0.5, 1))]},
            "images[0].region_of_interest",
            "expected 0 <= left < right <= 1",
        ),
        (
            {"images": [image(region_of_interest=region(0, 0, 1, 1.5))]},
            "images[0].region_of_interest",
            "bottom 1.5",
        ),
        (
            {"images": [image(region_of_interest=region(NAN, 0, 1, 1))]},
            "images[0].region_of_interest",
            "left nan",
        ),
        ({"top_k": -1}, "top_k", "-1; expected 1 to 3"),
        ({"top_k": 4}, "top_k", "4; expected 1 to 3, the number of labels, or 0"),
        ({"threshold": 1.5}, "threshold", "1.5; expected 0 to 1"),
        ({"threshold": NAN}, "threshold", "nan; expected 0 to 1"),
        ({"version": -2}, "version", "-2; expected 1 or more"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(
    server: Any, fields: dict[str, Any], field: str, words: str
) -> None:
    request = service_pb2.ClassifyRequest(**{"images": [image()], **fields})
    error, details = refused(lambda: server.stub().Classify(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details["BadRequest"].field_violations
    assert violation.field == field
    assert words in violation.description
    assert server.counts().run == 0


def test_limits_are_the_servers_own(start_server: Callable[..., Any]) -> None:
    limits = Limits(max_images=2, max_pixels=63)
    server = start_server(service=ServiceSettings(limits=limits))
    error, _ = refused(
        lambda: server.stub().Classify(service_pb2.ClassifyRequest(images=[image()] * 3))
    )
    assert "3 images; expected 1 to 2" in (error.details() or "")
    with Client(server.address) as client:
        for data in (RED, png(RED)):
            with pytest.raises(ImageTooLargeError, match="the limit is 63"):
                client.classify(data)
        info = client.models()[0]
        assert (info.max_images, info.max_pixels) == (2, 63)


def test_an_unknown_model_is_refused_with_the_served_ones(server: Any) -> None:
    name = "x" * 5000
    request = service_pb2.ClassifyRequest(images=[image()], model=name)
    error, details = refused(lambda: server.stub().Classify(request))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "there is colours" in (error.details() or "")
    assert len(error.details() or "") < 1100
    assert details["ResourceInfo"].resource_type == "model"


def test_malformed_bytes_and_unknown_methods_get_a_status(server: Any) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        call = channel.unary_unary("/limelens.v1.ClassifierService/Classify")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        call = channel.unary_unary("/limelens.v1.ClassifierService/Nothing")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with Client(server.address) as client:
        assert client.classify(RED)[0].label == "red"


@pytest.mark.ci
def test_too_large_a_message_is_refused(start_server: Callable[..., Any]) -> None:
    server = start_server(max_message_bytes=100_000)
    with Client(server.address, max_attempts=1) as client:
        for _ in range(20):
            with pytest.raises(InvalidRequestError, match=r"of 200,0\d\d .*limit is 100,000"):
                client.classify(bytes(200_000))
        assert client.classify(RED)[0].label == "red"


def test_too_much_metadata_is_refused(server: Any) -> None:
    request = service_pb2.ClassifyRequest(images=[image()])
    error, _ = refused(
        lambda: server.stub().Classify(request, metadata=[("x-large", "a" * 40_000)])
    )
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_images_past_their_deadline_never_run(server: Any, client: Client, gate: Gate) -> None:
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        first = gate.close(lambda: pool.submit(client.classify, RED))
        for timeout_s in ever_longer(0.2):
            late = [pool.submit(client.classify, BLUE, timeout_s=timeout_s) for _ in range(30)]
            for future in late:
                with pytest.raises(ExpiredError):
                    future.result()
            # The server's clock of a call begins later than the client's.
            until(lambda: server.server.open_calls.count == len(first))
            if server.engine().num_queued:  # calls may expire before they reach a busy server
                break
        assert num_waiting(server) == 0
        gate.opened.set()
        assert [future.result()[0].label for future in first] == ["red", "red"]
    assert client.classify(GREEN)[0].label == "green"
    counts = server.counts()
    assert counts.run == 3
    assert 0 < counts.dropped <= 30


def num_waiting(server: Any) -> int:
    (engine,) = server.server.runner.engines.values()
    return int(engine.num_waiting)


def test_a_cancelled_call_leaves_its_neighbours_alone(server: Any, gate: Gate) -> None:
    stub = server.stub()
    noise = np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    request = service_pb2.ClassifyRequest(images=[image(encoded=png(noise))])
    calls = gate.close(lambda: stub.Classify.future(request))
    calls += [stub.Classify.future(request) for _ in range(10)]
    until(lambda: num_waiting(server) == 10)
    for call in calls[2::2]:
        call.cancel()
    until(lambda: num_waiting(server) == 5)
    gate.opened.set()
    kept = [*calls[:2], *calls[3::2]]
    answers = [call.result().predictions[0] for call in kept]
    alone = stub.Classify(request).predictions[0]
    assert len({answer.SerializeToString() for answer in [*answers, alone]}) == 1
    counts = server.counts()
    assert (counts.run, counts.dropped) == (len(kept) + 1, 5)


def test_other_images_do_not_change_a_result(server: Any) -> None:
    stub = server.stub()
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, (50, 40, 3), dtype=np.uint8) for _ in range(8)]
    images = [image(encoded=png(pixels)) for pixels in noise]
    together = stub.Classify(service_pb2.ClassifyRequest(images=images)).predictions
    calls = [stub.Classify.future(service_pb2.ClassifyRequest(images=[one])) for one in images * 4]
    for i, call in enumerate(calls):
        alone = call.result().predictions[0]
        assert alone.SerializeToString() == together[i % 8].SerializeToString()


def test_a_full_queue_sends_a_retry_delay(start_server: Callable[..., Any], gate: Gate) -> None:
    server = start_server(service=ServiceSettings(max_queue=4))
    stub = server.stub()
    request = service_pb2.ClassifyRequest(images=[image()] * 4)
    one = service_pb2.ClassifyRequest(images=[image()])
    busy = gate.close(lambda: stub.Classify.future(one))
    waiting = stub.Classify.future(request)
    until(lambda: num_waiting(server) == 4)
    error, details = refused(lambda: stub.Classify(request))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details["RetryInfo"].retry_delay.ToMilliseconds() > 0
    # The client comes back by itself, and in the end is answered.
    with (
        Client(server.address) as client,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        patient = pool.submit(client.classify, [RED] * 4)
        time.sleep(0.02)
        gate.opened.set()
        assert len(patient.result()) == 4
    assert len(waiting.result().predictions) == 4
    assert [len(call.result().predictions) for call in busy] == [1, 1]


def test_waiting_images_are_bounded_in_bytes_too(
    start_server: Callable[..., Any], gate: Gate
) -> None:
    server = start_server(service=ServiceSettings(max_waiting_bytes=100_000), num_threads=1)
    large = png(RED) + bytes(60_000)
    with (
        Client(server.address, max_attempts=1) as client,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        waiting = gate.close(lambda: pool.submit(client.classify, large), 1)
        for call in (client.classify, client.explain):
            with pytest.raises(OverloadedError, match="at most 100,000 are held"):
                call(large)
        small = pool.submit(client.classify, RED)
        gate.opened.set()
        assert [one.result()[0].label for one in (*waiting, small)] == ["red", "red"]
        assert client.classify(large)[0].label == "red"
        # What is larger than all that may wait is answered where nothing else waits.
        assert client.classify(png(RED) + bytes(200_000))[0].label == "red"


FLOOD = """
import sys, threading, time
from limelens.serve import Client
client = Client(sys.argv[1], max_attempts=1)
data = bytes.fromhex(sys.argv[2]) + bytes(12 * 2**20)
for _ in range(10):
    threading.Thread(target=client.classify, args=(data,), daemon=True).start()
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_waiting_images_are_held_once(start_server: Callable[..., Any], gate: Gate) -> None:
    def memory() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    server = start_server(num_threads=1)
    engine = server.server.runner.engine(server.repository.get().bundle)
    gate.opened.clear()
    before = memory()
    command = [sys.executable, "-c", FLOOD, server.address, png(RED).hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as client:
        try:
            until(lambda: engine.num_waiting == 9)  # one is being worked on
            # What was needed to receive the last of them may be freed a little later.
            until(lambda: memory() - before < 2.3 * 10 * 12 * 2**20)
            assert engine.num_waiting == 9
        finally:
            client.kill()
            gate.opened.set()


def test_calls_at_a_time_are_bounded(start_server: Callable[..., Any]) -> None:
    server = start_server(max_calls=1)
    with Client(server.address, max_attempts=1) as client:
        camera: Any = client.stream(itertools.repeat(RED))
        next(camera)
        with pytest.raises(OverloadedError, match="1 calls are in flight, which is the limit"):
            client.classify(RED)
        camera.close()


def test_an_unexpected_error_hides_its_text(
    server: Any,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_args: object) -> None:
        raise RuntimeError("the password is swordfish")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "limelens"):
        patch.setattr(Bundle, "predict", fails)
        error, details = refused(
            lambda: server.stub().Classify(service_pb2.ClassifyRequest(images=[image()]))
        )
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "swordfish" not in str(error)
        own_id = details["RequestInfo"].request_id
        assert own_id in (error.details() or "")
        assert own_id in caplog.text
        assert "swordfish" in caplog.text
        with pytest.raises(ServerError) as caught:
            client.classify(RED)
        assert caught.value.request_id
        assert caught.value.code == "INTERNAL"
    assert client.classify(RED)[0].label == "red"


def test_the_callers_own_request_id_is_used(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    request = service_pb2.ClassifyRequest()
    with caplog.at_level(logging.INFO, "limelens"):
        refused(lambda: server.stub().Classify(request, metadata=[("x-request-id", "door-7")]))
    assert "door-7" in caplog.text


def test_numbers_that_are_not_finite_are_an_internal_error(
    client: Client, server: Any, break_for: Callable[..., None]
) -> None:
    break_for(lambda images: np.ones(len(images), np.bool_))
    with pytest.raises(ServerError, match="not finite"):
        client.classify(RED)
    assert server.counts().not_finite == 1


def test_models_are_described(start_server: Callable[..., Any], models: Path) -> None:
    with Client(start_server(models).address) as client:
        found = client.models()
        assert [(one.name, one.version, one.ready) for one in found] == [
            ("colours", 1, True),
            ("colours", 2, True),
            ("tags", 1, True),
        ]
        assert found[2].task == Task.MULTILABEL
        assert [label.threshold for label in found[2].labels] == pytest.approx([0.5, 0.6, 0.7])
        assert found[0].card == {}
        card = client.model("colours")
        assert card.card["card"] == {"note": "made by a test"}
        assert (card.version, card.input_size, card.embedding_size) == (2, (32, 32), 3)
        assert card.labels[0].alert
        assert card.labels[0].macro_label == "warm"


def test_refused_versions_are_listed_as_such(
    start_server: Callable[..., Any], tmp_path: Path, bundles: Any
) -> None:
    bundles.save(tmp_path, bundles.metadata(), 1)
    bad = bundles.save(tmp_path, bundles.metadata(), 2)
    bad.write_bytes(b"not a model")
    with Client(start_server(tmp_path).address) as client:
        assert [(one.version, one.ready) for one in client.models()] == [(1, True), (2, False)]
        assert client.classify(RED).model.version == 1
        with pytest.raises(NotFoundError, match="it was refused"):
            client.classify(RED, version=2)
