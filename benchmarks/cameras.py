"""Measures whether many cameras on one server get equal shares, and how old responses are.

Each camera sends a portrait at its own pace, alternating with and without a mask, and reads its
responses. The server is one process, the cameras share another. Rows: the cameras alone; beside
callers that explain without pause; with every change explained on the stream; and sending more than
the server can do, so that each camera should lose equally many frames.

The age of a response counts from sending the frame. Jain's index of the classified frames is 1 if
all cameras get the same number and 1/n if one gets all. Each row begins after one explanation, so
that the server has loaded everything.

    python -m benchmarks.cameras [--cameras 50] [--fps 5] [--seconds 10] [--overload 6]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage.data import astronaut

from limelens.cli.bench import serve_command
from limelens.cli.serving import default_models
from limelens.serve.image import Region
from limelens.serve.tools.load import started
from limelens.train.synthetic import MASK_STYLES, Face, draw_mask
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc
from limelens.v1 import explanation_pb2, image_pb2

_SIZE: Final = 224
_MODEL: Final = "facemask"
_TURN_S: Final = 3.0
"""How long somebody stands at the door with a mask, then without."""
_CLASSIFIED: Final = service_pb2.FRAME_STATUS_CLASSIFIED


@dataclass
class _Camera:
    """The counts of one camera on its stream."""

    num_sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    explained: Counter[int] = field(default_factory=Counter)
    ages_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Load:
    """The load of one row of the table."""

    name: str
    fps: float
    num_explaining: int = 0
    explain_changes: bool = False


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=default_models())
    parser.add_argument("--cameras", type=int, default=50)
    parser.add_argument("--fps", type=float, default=5.0, help="frames a second of each camera")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row")
    parser.add_argument(
        "--overload", type=float, default=6.0, help="times the frames in the last rows"
    )
    parser.add_argument("--num-threads", type=int, default=2, help="of the server")
    arguments = parser.parse_args()
    fps, most = arguments.fps, arguments.fps * arguments.overload
    loads = [
        _Load("alone", fps),
        _Load("2 callers explain", fps, num_explaining=2),
        _Load("changes explained", fps, explain_changes=True),
        _Load(f"{arguments.overload:g} times the frames", most),
        _Load("and 2 callers explain", most, num_explaining=2),
    ]
    table = Table(
        title=f"{arguments.cameras} cameras, {arguments.seconds:g} s each, "
        f"{arguments.num_threads} threads; load average before it {os.getloadavg()[0]:.1f}"
    )
    table.add_column("cameras")
    for column in (
        "sent a second", "classified a second", "dropped %", "age p50 ms", "age p99 ms",
        "least to most classified", "Jain", "explained", "not",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    images = _images()
    command = serve_command(arguments.models, "--num-threads", str(arguments.num_threads))
    for load in loads:
        with started(command) as server:
            cameras, num_explained = asyncio.run(
                _run(server.address, load, arguments.cameras, arguments.seconds, images)
            )
        table.add_row(load.name, *_cells(cameras, num_explained, arguments.seconds))
    Console(width=160).print(table)


def _cells(cameras: list[_Camera], num_explained: int, seconds: float) -> list[str]:
    shares = np.array([camera.statuses[_CLASSIFIED] for camera in cameras], dtype=float)
    ages = np.concatenate([camera.ages_ms for camera in cameras])
    num_sent = sum(camera.num_sent for camera in cameras)
    jain = shares.sum() ** 2 / (len(shares) * (shares**2).sum())
    changes: Counter[int] = sum((camera.explained for camera in cameras), Counter())
    done = changes.pop(service_pb2.CHANGE_EXPLANATION_STATUS_EXPLAINED, 0)
    return [
        f"{num_sent / seconds:.0f}",
        f"{shares.sum() / seconds:.0f}",
        f"{100 * (1 - shares.sum() / num_sent):.1f}",
        f"{np.percentile(ages, 50):.0f}",
        f"{np.percentile(ages, 99):.0f}",
        f"{shares.min():.0f} to {shares.max():.0f}",
        f"{jain:.4f}",
        str(num_explained + done),
        str(sum(changes.values())),
    ]


async def _run(
    address: str, load: _Load, num_cameras: int, seconds: float, images: list[bytes]
) -> tuple[list[_Camera], int]:
    rng = np.random.default_rng(0)
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
        await stub.Explain(_explain_request(images[0]))
        explaining = [
            asyncio.create_task(_explain_without_pause(stub, images[0]))
            for _ in range(load.num_explaining)
        ]
        begin = time.monotonic() + 0.5
        cameras = [_Camera() for _ in range(num_cameras)]
        await asyncio.gather(
            *(
                _film(stub, load, camera, begin, begin + seconds, images, phase)
                for camera, phase in zip(cameras, rng.random(num_cameras), strict=True)
            )
        )
        for task in explaining:
            task.cancel()
        counts = await asyncio.gather(*explaining)
    return cameras, sum(counts)


async def _film(
    stub: Any,
    load: _Load,
    camera: _Camera,
    begin: float,
    end: float,
    images: list[bytes],
    phase: float,
) -> None:
    sent_at: dict[int, float] = {}

    async def frames() -> AsyncIterator[service_pb2.ClassifyStreamRequest]:
        config = service_pb2.StreamConfig(camera_id="door", model=_MODEL)
        if load.explain_changes:
            config.explain_on_change.options.hide.shuffle = True
            config.explain_on_change.options.segmentation.num_segments = 30
        yield service_pb2.ClassifyStreamRequest(config=config)
        interval_s = 1 / load.fps
        due = begin + phase * interval_s
        while due < end:
            await asyncio.sleep(due - time.monotonic())
            turn = int((due - begin) / _TURN_S + 10 * phase) % len(images)
            sent_at[camera.num_sent] = time.monotonic()
            image = image_pb2.Image(encoded=images[turn])
            frame = service_pb2.Frame(frame_id=camera.num_sent, image=image)
            camera.num_sent += 1
            yield service_pb2.ClassifyStreamRequest(frame=frame)
            due += interval_s

    async for answer in stub.ClassifyStream(frames()):
        if answer.status == service_pb2.FRAME_STATUS_EXPLANATION:
            camera.explained[answer.explanation.status] += 1
            continue
        camera.statuses[answer.status] += 1
        at = sent_at.pop(answer.frame_id)
        if answer.status == _CLASSIFIED:
            camera.ages_ms.append(1000 * (time.monotonic() - at))


async def _explain_without_pause(stub: Any, image: bytes) -> int:
    request = _explain_request(image)
    count = 0
    with suppress(asyncio.CancelledError):
        while True:
            await stub.Explain(request)
            count += 1
    return count


def _explain_request(image: bytes) -> service_pb2.ExplainRequest:
    return service_pb2.ExplainRequest(
        model=_MODEL,
        image=image_pb2.Image(encoded=image),
        hide=explanation_pb2.Hide(shuffle=True),
    )


def _images() -> list[bytes]:
    """A face without and with a mask, as JPEG files."""
    portrait = astronaut()  # type: ignore[no-untyped-call]
    face = Face((203.7, 101.2), (246.8, 103.5), -0.08)
    masked, _ = draw_mask(portrait, face, MASK_STYLES["surgical-blue"], np.random.default_rng(0))
    left, top, right, bottom = Region(0.25, 0.03, 0.63, 0.41).box(*portrait.shape[:2])
    found = []
    for pixels in (portrait, masked):
        image = Image.fromarray(pixels[top:bottom, left:right]).resize((_SIZE, _SIZE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


if __name__ == "__main__":
    main()
