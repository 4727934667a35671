"""Embed against a real server, and in this process."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.serve.rpc.conftest import Gate, refused
from tests.waiting import ever_longer, until

from limelens.serve import Client
from limelens.serve.bundle import load_bundle
from limelens.serve.bundle.session import unit_length
from limelens.serve.client.in_process import local_client
from limelens.serve.errors import (
    ExpiredError,
    ImageTooLargeError,
    InvalidImageError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
)
from limelens.serve.image import Region
from limelens.serve.rpc.server_config import Limits, ServiceSettings
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
TEAL = np.full((8, 8, 3), (0, 153, 204), np.uint8)
BLACK = np.zeros((8, 8, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(params=["file", "server"])
def asked(
    request: pytest.FixtureRequest, one_model: Path, start_server: Callable[..., Any]
) -> Iterator[Client]:
    """A client of a server, and one that runs a model itself."""
    if request.param == "file":
        yield local_client(one_model / "colours" / "1", "cpu")
        return
    with Client(start_server().address, max_attempts=1) as client:
        yield client


def test_images_of_every_kind_become_vectors_in_their_order(asked: Client, tmp_path: Path) -> None:
    path = tmp_path / "teal.png"
    path.write_bytes(png(TEAL))
    began = time.monotonic()
    found = asked.embed([RED, png(BLACK), path, str(path)])
    assert found.vectors.dtype == np.float32
    # The test's model embeds an image as its mean colour.
    expected = [[1, 0, 0], [0, 0, 0], [0, 0.6, 0.8], [0, 0.6, 0.8]]
    assert found.vectors == pytest.approx(np.array(expected), abs=1e-4)
    assert len(found) == 4
    assert (found.model.name, found.model.version) == ("colours", 1)
    assert found.model.provider == "CPUExecutionProvider"
    assert 0 < found.timings_ms.total <= 1000 * (time.monotonic() - began)
    assert asked.embed(RED).vectors.shape == (1, 3)


def test_a_region_of_interest_is_all_that_is_embedded(asked: Client) -> None:
    both = np.concatenate([RED, TEAL], axis=1)
    found = asked.embed([both, png(both)], region=Region(0, 0, 0.5, 1))
    assert found.vectors == pytest.approx(np.array([[1, 0, 0], [1, 0, 0]]), abs=1e-4)


def test_vectors_have_length_1_if_requested(asked: Client) -> None:
    dark = np.full((8, 8, 3), (30, 60, 90), np.uint8)
    found = asked.embed([dark, BLACK], normalize=True).vectors
    assert np.linalg.norm(found[0]) == pytest.approx(1, abs=1e-6)
    assert found[0] == pytest.approx(np.array([1, 2, 3]) / np.sqrt(14), abs=1e-4)
    assert found[1].tolist() == [0, 0, 0]


def test_lengths_beyond_32_bits_do_not_overflow() -> None:
    found = unit_length(np.array([[3e30, 4e30], [3e-30, 4e-30]], np.float32))
    assert found == pytest.approx(np.array([[0.6, 0.8], [0.6, 0.8]]), abs=1e-6)


def test_embed_and_classify_give_the_same_vector(asked: Client) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    vector = asked.embed(noise).vectors[0]
    assert vector.tolist() == list(asked.classify(noise, embedding=True)[0].embedding)


def test_a_file_and_a_server_give_the_same(one_model: Path, server: Any) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (20, 50, 40, 3), dtype=np.uint8)
    ours = local_client(one_model / "colours" / "1", "cpu").embed(noise)
    with Client(server.address) as client:
        theirs = client.embed(noise)
    assert np.array_equal(ours.vectors, theirs.vectors)
    assert ours.model_digest == theirs.model_digest


def test_a_digest_identifies_a_model_in_any_folder(
    models: Path, tmp_path: Path, bundles: Any, start_server: Callable[..., Any]
) -> None:
    server = start_server(models)
    with Client(server.address) as client:
        digests = [client.embed(RED, model="colours", version=v).model_digest for v in (0, 1, 2)]
        digests.append(client.embed(RED, model="tags").model_digest)
    assert digests[0] == digests[2]
    assert len({*digests}) == 3
    moved = tmp_path / "elsewhere.onnx"
    moved.write_bytes((models / "colours" / "1" / "model.onnx").read_bytes())
    assert local_client(moved, "cpu").embed(RED).model_digest == digests[1]
    golden = bundles.metadata().golden
    other = replace(
        bundles.metadata(), golden=replace(golden, probabilities=golden.probabilities + 1e-5)
    )
    # Other weights under the same name, labels and data: the golden vector shows it.
    path = bundles.save(tmp_path, other)
    assert load_bundle(path, "cpu").digest != digests[1]


def image(**fields: Any) -> image_pb2.Image:
    return image_pb2.Image(**{"encoded": png(RED), **fields})


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"images": []}, "images", "0 images; expected 1 to 64"),
        ({"images": [image()] * 65}, "images", "65 images; expected 1 to 64"),
        ({"images": [image(), image_pb2.Image()]}, "images[1]", "no image"),
        ({"images": [image(encoded=b"")]}, "images[0].encoded", "no bytes"),
        (
            {"images": [image(), image(encoded=b"<!doctype html><html></html>")]},
            "images[1].encoded",
            "HTML",
        ),
        ({"images": [image(encoded=png(RED)[:50])]}, "images[0].encoded", ""),
        (
            {"images": [image_pb2.Image(raw=image_pb2.RawImage(data=b"abc", height=8, width=8))]},
            "images[0].raw",
            "3 bytes; expected 8x8x3 = 192",
        ),
        (
            {"images": [image(region_of_interest=image_pb2.RegionOfInterest(left=0.5))]},
            "images[0].region_of_interest",
            "expected 0 <= left < right <= 1",
        ),
        ({"version": -2}, "version", "-2; expected 1 or more"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(
    server: Any, fields: dict[str, Any], field: str, words: str
) -> None:
    request = service_pb2.EmbedRequest(**{"images": [image()], **fields})
    error, details = refused(lambda: server.stub().Embed(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details["BadRequest"].field_violations
    assert violation.field == field
    assert words in violation.description
    with Client(server.address) as client:
        assert client.embed(RED).vectors.shape == (1, 3)


def test_limits_are_those_of_classify(start_server: Callable[..., Any]) -> None:
    settings = ServiceSettings(limits=Limits(max_images=2, max_pixels=63))
    with Client(start_server(service=settings).address, max_attempts=1) as client:
        with pytest.raises(InvalidRequestError, match="3 images; expected 1 to 2"):
            client.embed([RED] * 3)
        for image in (RED, png(RED)):
            with pytest.raises(ImageTooLargeError, match="the limit is 63"):
                client.embed(image)
        with pytest.raises(NotFoundError, match="there is colours"):
            client.embed(RED, model="cats")


def test_local_answers_refuse_the_same(one_model: Path) -> None:
    client = local_client(one_model / "colours" / "1", "cpu")
    with pytest.raises(InvalidRequestError, match="65 images; expected 1 to 64"):
        client.embed([RED] * 65)
    with pytest.raises(InvalidImageError) as caught:
        client.embed([RED, b"no image"])
    assert caught.value.field == "images[1].encoded"


def test_images_past_their_deadline_never_run(start_server: Callable[..., Any], gate: Gate) -> None:
    server = start_server(num_threads=1)
    stub = server.stub()
    [first] = gate.close(
        lambda: stub.Embed.future(service_pb2.EmbedRequest(images=[image()])), num_workers=1
    )
    with Client(server.address, max_attempts=1) as client:
        for timeout_s in ever_longer(0.5):
            with pytest.raises(ExpiredError):
                client.embed([RED] * 5, timeout_s=timeout_s)
            until(lambda: server.server.open_calls.count == 1)
            if server.engine().num_queued:  # it may expire before it reaches a busy server
                break
        gate.opened.set()
        assert len(first.result().embeddings) == 1
        assert client.embed(RED).vectors.shape == (1, 3)
    # Images of one request take turns with those of others: some go after the last answer.
    until(lambda: server.counts().dropped == 5)
    assert server.counts().run == 2


@pytest.mark.parametrize(
    "settings", [ServiceSettings(max_queue=2), ServiceSettings(max_waiting_bytes=300)]
)
def test_a_full_queue_and_held_bytes_send_a_retry_delay(
    start_server: Callable[..., Any], gate: Gate, settings: ServiceSettings
) -> None:
    server = start_server(num_threads=1, service=settings)
    request = service_pb2.EmbedRequest(images=[image()])
    [first] = gate.close(lambda: server.stub().Embed.future(request), num_workers=1)
    waiting = server.stub().Embed.future(request)
    until(lambda: server.engine().num_queued == 1)
    with (
        Client(server.address, max_attempts=1) as client,
        pytest.raises(OverloadedError) as caught,
    ):
        client.embed([RED] * 2)
    assert caught.value.retry_after_s > 0
    gate.opened.set()
    assert len(first.result().embeddings) == 1
    waiting.cancel()


def test_other_images_do_not_change_a_vector(server: Any) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (8, 30, 40, 3), dtype=np.uint8)
    with Client(server.address) as client:
        together = client.embed(noise).vectors
        for row, image in zip(together, noise, strict=True):
            assert np.array_equal(client.embed(image).vectors[0], row)
