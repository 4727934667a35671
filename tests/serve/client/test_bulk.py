"""Many images in one call: cut, in order, several requests at once, broken ones kept apart."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.waiting import until

from limelens.serve import Client
from limelens.serve.client.bulk import batches, classify_batch
from limelens.serve.client.in_process import local_client
from limelens.serve.client.results import ImageFailure
from limelens.serve.decisions.decision import Prediction
from limelens.serve.errors import (
    InvalidImageError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.rpc.server_config import Limits, ServiceSettings

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
IMAGES = {name: np.full((8, 8, 3), colour, np.uint8) for name, colour in COLOURS.items()}
NAMES = tuple(IMAGES)


def files(folder: Path, count: int) -> list[Path]:
    """Red, green and blue images in turn."""
    made = []
    for number in range(count):
        made.append(folder / f"{number:05}.png")
        Image.fromarray(IMAGES[NAMES[number % 3]]).save(made[-1])
    return made


def labels_of(results: Any) -> list[str | None]:
    return [one.label if isinstance(one, Prediction) else one.reason for one in results]


def test_a_thousand_files_are_classified_in_their_order(
    start_server: Callable[..., Any], connect: Callable[..., Any], tmp_path: Path
) -> None:
    server = start_server()
    client = connect(server.address)
    found = client.classify(files(tmp_path, 1000))
    assert labels_of(found) == [NAMES[number % 3] for number in range(1000)]
    assert found.model.name == "colours"
    assert found.timings_ms.total > 0
    assert server.counts().run == 1000


def test_requests_keep_within_the_servers_limit(
    start_witnessed: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_witnessed(ServiceSettings(limits=Limits(max_images=3)))
    client = connect(server.address)
    assert labels_of(client.classify([IMAGES["red"]] * 4)) == ["red"] * 4
    # All in one, then what the limit is, then three and one.
    assert sorted(server.witness.names()) == ["Classify"] * 3 + ["GetModel"]
    server.witness.calls.clear()
    assert labels_of(client.classify([IMAGES["blue"]] * 20)) == ["blue"] * 20
    assert server.witness.names() == ["Classify"] * 7
    server.witness.calls.clear()
    assert labels_of(client.classify([IMAGES["blue"]] * 2)) == ["blue"] * 2
    assert server.witness.names() == ["Classify"]


def test_the_right_to_classify_is_enough_for_many_images(
    start_server: Callable[..., Any], connect: Callable[..., Any], tokens: Any
) -> None:
    token = tokens.set("door", ["classify"])
    client = connect(start_server(access=tokens.access()).address, token=token)
    assert labels_of(client.classify([IMAGES["red"]] * 40)) == ["red"] * 40
    assert labels_of(client.classify_many([IMAGES["blue"]] * 20)) == ["blue"] * 20


def test_a_limit_that_may_not_be_read_is_discovered(
    start_server: Callable[..., Any], connect: Callable[..., Any], tokens: Any
) -> None:
    token = tokens.set("door", ["classify"])
    few = ServiceSettings(limits=Limits(max_images=5))
    client = connect(start_server(access=tokens.access(), service=few).address, token=token)
    assert labels_of(client.classify([IMAGES["red"]] * 20)) == ["red"] * 20
    assert labels_of(client.classify_many([IMAGES["blue"]] * 20)) == ["blue"] * 20


def test_a_broken_image_does_not_fail_the_others(
    start_server: Callable[..., Any], connect: Callable[..., Any], tmp_path: Path
) -> None:
    client = connect(start_server().address)
    images: list[Any] = files(tmp_path, 50)
    images[3].write_bytes(b"this is no image")
    images[7].unlink()
    images[20] = b""
    images[21] = np.zeros((4, 4), np.uint8)
    images[49].write_bytes(images[48].read_bytes()[:45])
    found = client.classify(images, on_error="return")
    assert [one.index for one in found.failures] == [3, 7, 20, 21, 49]
    assert [one.path for one in found.failures] == [
        images[3], images[7], None, None, images[49],
    ]  # fmt: skip
    reasons = [one.reason for one in found.failures]
    assert reasons[0].startswith("not a supported image: text")
    assert reasons[1] == "No such file or directory"
    assert reasons[2].startswith("no bytes")
    assert "expected uint8 (H, W, 3)" in reasons[3]
    assert isinstance(found[3].error, InvalidImageError)
    assert found[3].error.field == "images[3].encoded"
    assert isinstance(found[7].error, FileNotFoundError)
    for number, one in enumerate(found):
        if number not in (3, 7, 20, 21, 49):
            assert one.label == NAMES[number % 3]
    assert len(found) == 50
    assert found.model.name == "colours"


def test_the_error_of_a_broken_image_names_its_index(
    start_server: Callable[..., Any], connect: Callable[..., Any], tmp_path: Path
) -> None:
    client = connect(start_server().address)
    images: list[Any] = files(tmp_path, 40)
    images[33] = b"nothing"
    with pytest.raises(InvalidImageError, match=r"images\[33\].encoded: not a supported image"):
        client.classify(images)
    images[33] = tmp_path / "nothing.png"
    with pytest.raises(FileNotFoundError):
        client.classify(images)


def test_only_broken_images_give_only_failures(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    client = connect(start_server().address)
    found = client.classify([b"x"] * 5, on_error="return")
    assert len(found.failures) == len(found) == 5
    assert found.model is None
    assert len(client.classify([], on_error="return")) == 0


def test_an_error_of_all_images_is_raised_anyway(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    client = connect(start_server().address)
    images = [IMAGES["red"]] * 20
    with pytest.raises(InvalidRequestError, match="top_k"):
        client.classify(images, on_error="return", top_k=9)
    with pytest.raises(NotFoundError):
        client.classify(images, on_error="return", model="cats")
    with pytest.raises(InvalidRequestError, match="batch_size: 0; expected 1 or more"):
        list(client.classify_many(images, batch_size=0))
    with pytest.raises(UnavailableError):
        connect("127.0.0.1:1", max_attempts=1).classify(images, on_error="return")


def test_images_are_read_when_their_turn_comes(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    client = connect(start_server().address)
    taken = [0]

    def endless() -> Iterator[Any]:
        while True:
            taken[0] += 1
            yield IMAGES["red"]

    answers = client.classify_many(endless(), batch_size=5, at_once=3)
    for number in range(1, 61):
        assert next(answers).label == "red"
        assert taken[0] <= number + 3 * 5 + 5
    answers.close()
    now = taken[0]
    assert labels_of(client.classify(IMAGES["red"])) == ["red"]
    assert taken[0] == now


def test_several_requests_run_at_once(
    start_witnessed: Callable[..., Any],
    connect: Callable[..., Any],
    gate: Any,
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    server = start_witnessed()
    client = connect(server.address)
    gate.opened.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            lambda: list(client.classify_many([IMAGES["red"]] * 40, batch_size=4, at_once=3))
        )
        until(lambda: server.witness.names().count("Classify") == 3)
        gate.opened.set()
        assert labels_of(asked.result(60)) == ["red"] * 40
    assert server.witness.names().count("Classify") == 10


def test_the_client_waits_for_a_busy_server(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_server(service=ServiceSettings(max_queue=10))
    client = connect(server.address, max_attempts=1)
    found = list(client.classify_many([IMAGES["red"]] * 200, batch_size=8, at_once=4))
    assert labels_of(found) == ["red"] * 200


def test_too_many_bytes_for_one_message_are_split(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    client = connect(start_server(max_message_bytes=100_000).address, max_attempts=1)
    file = io.BytesIO()
    Image.fromarray(IMAGES["green"]).save(file, "PNG")
    image = file.getvalue() + bytes(30_000)
    images = [image] * 20
    images[4] += bytes(200_000)
    found = client.classify(images, on_error="return")
    assert [one.index for one in found.failures] == [4]
    assert "the limit is 100,000" in found.failures[0].reason
    assert labels_of(found[:4]) == ["green"] * 4


def test_large_images_go_in_requests_that_can_be_retried(
    start_witnessed: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_witnessed()
    client = connect(server.address)
    file = io.BytesIO()
    Image.fromarray(IMAGES["green"]).save(file, "PNG")
    images = [file.getvalue() + bytes(900_000)] * 17
    assert labels_of(client.classify(images)) == ["green"] * 17
    assert server.witness.names().count("Classify") == 3  # of 8, 8 and 1


def test_a_model_file_in_this_process_takes_many_too(one_model: Path, tmp_path: Path) -> None:
    client = local_client(one_model / "colours" / "1", "cpu")
    images: list[Any] = files(tmp_path, 100)
    images[11] = b"nothing"
    found = client.classify(images, on_error="return")
    assert [one.index for one in found.failures] == [11]
    assert found[99].label == "red"  # type: ignore[union-attr]


def test_types_distinguish_predictions_and_failures(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    with Client(start_server().address) as client:
        labels = []
        for one in client.classify_many([*files(tmp_path, 2), tmp_path / "nothing.png"]):
            labels.append(one.path if isinstance(one, ImageFailure) else one.label)
    assert labels == ["red", "green", tmp_path / "nothing.png"]


async def test_a_busy_server_is_retried_while_the_deadline_allows() -> None:
    (batch,) = batches(iter([np.zeros((8, 8, 3), np.uint8)]), 16, {}, "raise", patience_s=9.9)
    delays_s = [1.0, 10.0]  # the second pause would end after the deadline
    pauses: list[float] = []

    async def classify(_request: object) -> Any:
        raise OverloadedError("busy", delays_s.pop(0))

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    with pytest.raises(OverloadedError):
        await classify_batch(batch, classify, asyncio.to_thread, sleep)
    assert pauses == [1.0]
    assert delays_s == []
