"""The log of a real server process: fields, levels, and what must never be in it."""

from __future__ import annotations

import io
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from limelens.serve import Client
from limelens.serve.errors import InvalidRequestError
from limelens.serve.repository.model_repository import Repository
from limelens.serve.rpc.server import Server, ServerConfig
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc
from limelens.v1 import image_pb2

MARKER = "swordfish-swordfish"
RED = np.full((32, 32, 3), (255, 0, 0), np.uint8)


class Process:
    """`limelens serve` and its log."""

    def __init__(self, models: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "limelens.cli", "serve", "--device", "cpu"),
                *("--models", str(models), "--listen", "127.0.0.1:0", *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.address = line.split(" on ")[1].split()[0]

    def log(self) -> str:
        """All of it; ends the process."""
        self.process.send_signal(signal.SIGTERM)
        rest, log = self.process.communicate(timeout=60)
        assert (self.process.returncode, rest) == (0, "")
        return log


@pytest.fixture
def start(one_model: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*options: str) -> Process:
        started.append(Process(one_model, *options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def calls(log: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.splitlines()) if "rpc" in line]


def make_calls(address: str) -> None:
    with Client(address, max_attempts=1) as client:
        client.classify([RED])
        with pytest.raises(InvalidRequestError):
            client.classify([b"no image"])


def test_each_line_of_a_call_has_its_id(start: Callable[..., Process]) -> None:
    server = start("--log-format", "json", "--log-level", "info")
    make_calls(server.address)
    (line,) = calls(server.log())
    assert line["level"] == "INFO"
    assert line["logger"] == "limelens.serve.rpc.interceptor"
    assert line["rpc"] == "Classify"
    assert line["code"] == "INVALID_ARGUMENT"
    assert (line["model"], line["version"]) == ("colours", 1)
    assert line["duration_ms"] > 0
    assert len(line["request_id"]) == 16
    assert line["time"].endswith("+00:00")
    assert "images[0].encoded" in line["message"]


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        (("--log-level", "info", "--access-log"), ["OK", "INVALID_ARGUMENT"]),
        (("--log-level", "debug"), ["OK", "INVALID_ARGUMENT"]),
        (("--log-level", "info"), ["INVALID_ARGUMENT"]),
        (("--log-level", "warning"), []),
    ],
)
def test_successful_calls_are_logged_on_request(
    start: Callable[..., Process], options: tuple[str, ...], codes: list[str]
) -> None:
    server = start("--log-format", "json", *options)
    make_calls(server.address)
    assert [line["code"] for line in calls(server.log())] == codes


def test_other_lines_of_a_call_have_its_id_too(
    start: Callable[..., Process], afraid_of_the_dark: Path
) -> None:
    """An unclassifiable frame is logged from deep within its stream."""
    for log_format in ("json", "text"):
        server = start("--log-format", log_format, "--models", str(afraid_of_the_dark))
        black = image_pb2.Image(
            raw=image_pb2.RawImage(height=32, width=32, data=bytes(32 * 32 * 3))
        )
        config = service_pb2.StreamConfig(camera_id="door\nERROR forged line")
        messages = [
            service_pb2.ClassifyStreamRequest(config=config),
            service_pb2.ClassifyStreamRequest(frame=service_pb2.Frame(frame_id=0, image=black)),
        ]
        with grpc.insecure_channel(server.address) as channel:
            stub = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
            call = stub.ClassifyStream(iter(messages), metadata=[("x-request-id", "door-7")])
            assert len(list(call)) == 1
        (line,) = [line for line in server.log().splitlines() if "forged" in line]
        if log_format == "json":
            reported = json.loads(line)
            assert (reported["level"], reported["logger"]) == (
                "ERROR",
                "limelens.serve.rpc.camera_stream",
            )
            assert (reported["request_id"], reported["rpc"]) == ("door-7", "ClassifyStream")
            assert (reported["model"], reported["version"]) == ("colours", 1)
        else:
            assert line.endswith(
                "(request_id door-7, rpc ClassifyStream, caller 127.0.0.1, model colours, "
                "version 1)"
            )
            assert "door\\x0aERROR forged line" in line


def marked_images() -> list[bytes]:
    """Files that carry the marker in every place where a decoder looks; the last are broken."""
    image = Image.fromarray(RED)
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = MARKER, MARKER  # ImageDescription, Artist
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", MARKER)
    found = []
    for name, options in (
        ("JPEG", {"exif": exif, "comment": MARKER}),
        ("PNG", {"exif": exif, "pnginfo": text}),
        ("WEBP", {"exif": exif, "xmp": MARKER.encode()}),
    ):
        file = io.BytesIO()
        image.save(file, name, **options)
        found.append(file.getvalue())
    whole = list(found)
    found += [data[: len(data) * 2 // 3] for data in whole]
    found += [MARKER.encode() * 20, b"II*\0" + MARKER.encode() * 20, b"<svg>" + MARKER.encode()]
    return found


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_neither_images_nor_tokens_are_ever_logged(
    start: Callable[..., Process], log_format: str
) -> None:
    server = start("--log-format", log_format, "--log-level", "debug", "--access-log")
    metadata = [
        ("authorization", f"Bearer {MARKER}"),
        ("x-request-id", MARKER * 10),  # longer than an id may be
        ("x-secret-bin", MARKER.encode()),
    ]
    codes = set()
    with grpc.insecure_channel(server.address) as channel:
        stub = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
        for data in marked_images():
            image = image_pb2.Image(encoded=data)
            requests = (
                (stub.Classify, service_pb2.ClassifyRequest(images=[image])),
                (stub.Embed, service_pb2.EmbedRequest(images=[image])),
                (stub.Explain, service_pb2.ExplainRequest(image=image, num_samples=20)),
            )
            for method, request in requests:
                try:
                    method(request, metadata=metadata)
                except grpc.RpcError as error:
                    codes.add(error.code())
            frame = service_pb2.Frame(frame_id=0, image=image)
            messages = [
                service_pb2.ClassifyStreamRequest(config=service_pb2.StreamConfig(camera_id="a")),
                service_pb2.ClassifyStreamRequest(frame=frame),
            ]
            assert len(list(stub.ClassifyStream(iter(messages), metadata=metadata))) == 1
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
    log = server.log()
    assert log.count("Classify OK") >= 3
    assert log.count("INVALID_ARGUMENT") >= 12
    assert "swordfish" not in log
    assert MARKER.encode().hex() not in log.replace(" ", "")


async def test_a_line_names_the_caller(one_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ServerConfig(models=one_model, listen="127.0.0.1:0", device="cpu", num_threads=1)
    repository = Repository(config.models, "cpu", num_threads=1)
    server = Server(config, repository)
    await server.start()
    with caplog.at_level(logging.DEBUG, "limelens"):
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
            await stub.ListModels(service_pb2.ListModelsRequest())
    await server.stop()
    (line,) = [one for one in caplog.records if one.name == "limelens.serve.rpc.interceptor"]
    assert "127.0.0.1" in line.__dict__["caller"]
    assert line.__dict__["code"] == "OK"
