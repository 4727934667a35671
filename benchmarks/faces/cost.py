"""Measures what cameras with faces cost a server, and how soon the state of a frame is known.

A real server, and cameras of 640x480 at 5 frames a second as JPEG: a hall in which three people
walk, one in which they stand still, and an empty one; each with faces looked for in every, every
second and every third frame, and with still frames skipped. Then several cameras on two threads,
whose lag must not grow. `--hour` sends an hour's frames without anybody, of another view every few
seconds, and counts alerts.

    LIMELENS_DATA=… python -m benchmarks.faces.cost [--detector default] [--seconds 20] [--hour]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import grpc.aio
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.device.report import Row
from benchmarks.faces import frames
from benchmarks.faces.frames import HEIGHT, WIDTH, jpeg
from benchmarks.faces.sources import Portrait, backgrounds, data_folder, portraits
from limelens.cli.bench import serve_command
from limelens.cli.serving import default_models
from limelens.serve.errors import LimelensError
from limelens.serve.tools.load import Watch, started
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc
from limelens.v1 import face_pb2, image_pb2

_MODEL: Final = "facemask"
_FPS: Final = 5.0
_FILM_FRAMES: Final = 100
_NOISE: Final = 2.0
"""Standard deviation of the sensor's noise, in grey levels: no two frames are the same bytes."""
_FACE_SIZES_PX: Final = (60, 90, 130)
_SPEEDS: Final = (30, -50, 20)
"""Of the people, in pixels a second."""
_FRAMES_A_VIEW: Final = 12
_HOUR: Final = 3600
_CLASSIFIED: Final = service_pb2.FRAME_STATUS_CLASSIFIED
_WARM_UP_S: Final = 2.0


@dataclass(frozen=True)
class _Run:
    """One row: a film, the options of faces, and how many cameras show it."""

    film: str
    options: face_pb2.FaceOptions
    name: str
    num_cameras: int = 1


@dataclass(eq=False)
class _Camera:
    """What happened to a camera's frames.

    Args:
        num_faces: Of each classified frame, with people who are out of sight.
        num_alerts: How often the smoothed decision became an alert.
        num_seen: Classified frames in which a face was found.
    """

    num_sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    num_faces: list[int] = field(default_factory=list)
    num_alerts: int = 0
    num_seen: int = 0


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detector", default="default", help="as limelens serve --face-detector")
    parser.add_argument("--models", type=Path, default=default_models())
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row")
    parser.add_argument("--cameras", type=int, default=8, help="in the last rows")
    parser.add_argument("--num-threads", type=int, default=2, help="of the server")
    parser.add_argument("--hour", action="store_true", help="an hour without anybody instead")
    parser.add_argument("--frames", type=int, default=round(_HOUR * _FPS), help="of that hour")
    arguments = parser.parse_args()
    command = serve_command(
        arguments.models,
        *("--num-threads", str(arguments.num_threads)),
        *("--face-detector", arguments.detector),
    )
    try:
        if arguments.hour:
            _hour(command, backgrounds(data_folder()), arguments.frames)
        else:
            _cost(command, data_folder(), arguments)
    except LimelensError as error:
        sys.exit(str(error))


def _cost(command: Sequence[str], data: Path, arguments: argparse.Namespace) -> None:
    films = _films(portraits(data, "val"), backgrounds(data))
    print(f"load average before it {os.getloadavg()[0]:.1f}")
    table = Table("cameras", "scene", "faces looked for", box=MARKDOWN)
    for title in (
        "CPU, cores a camera", "required", "wanted", "met", "p50 ms", "p99 ms", "<= 150",
        "p99 first, last third", "dropped %", "faces a frame",
    ):  # fmt: skip
        table.add_column(title, justify="right")
    for run in _runs(arguments.cameras):
        with started(command) as server:
            watch = Watch(server.pid)
            cameras = asyncio.run(
                _film(server.address, run, films[run.film], arguments.seconds, watch)
            )
            cores = watch.usage.cpu_s / watch.usage.seconds / run.num_cameras
        table.add_row(str(run.num_cameras), run.film, run.name, *_cells(cameras, cores, run))
    Console(width=170).print(table)


def _runs(num_cameras: int) -> Iterator[_Run]:
    options = {
        "every frame": face_pb2.FaceOptions(),
        "every 2nd": face_pb2.FaceOptions(detect_every=2),
        "every 3rd": face_pb2.FaceOptions(detect_every=3),
        "unless still": face_pb2.FaceOptions(skip_still_frames=True),
    }
    for film in ("3 walk", "3 stand", "nobody"):
        for name, one in options.items():
            yield _Run(film, one, name)
    for name in ("every frame", "every 2nd", "unless still"):
        yield _Run("3 walk", options[name], name, num_cameras)


def _cells(cameras: list[_Camera], cores: float, run: _Run) -> list[str]:
    latencies = [np.array(camera.latencies_ms) for camera in cameras]
    whole = np.concatenate(latencies)
    thirds = [np.array_split(one, 3) for one in latencies]
    first, last = (np.percentile(np.concatenate([one[i] for one in thirds]), 99) for i in (0, 2))
    num_sent = sum(camera.num_sent for camera in cameras)
    classified = sum(camera.statuses[_CLASSIFIED] for camera in cameras)
    row = Row("", cores, required=0.35, wanted=0.2, bounded="measured")
    p99 = float(np.percentile(whole, 99))
    return [
        f"{cores:.3f}", *row.bounds, row.result, f"{np.percentile(whole, 50):.0f}", f"{p99:.0f}",
        "" if run.num_cameras > 1 else ("met" if p99 <= 150 else "missed"),
        f"{first:.0f}, {last:.0f}", f"{100 * (1 - classified / num_sent):.1f}",
        f"{np.mean(np.concatenate([camera.num_faces for camera in cameras])):.2f}",
    ]  # fmt: skip


async def _film(
    address: str, run: _Run, film: list[bytes], seconds: float, watch: Watch
) -> list[_Camera]:
    """Shows a film on each camera; CPU and latency count after a warm-up."""
    cameras = [_Camera() for _ in range(run.num_cameras)]
    begin = time.monotonic() + 0.2
    end = begin + _WARM_UP_S + seconds
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]

        async def measure() -> None:
            await asyncio.sleep(begin + _WARM_UP_S - time.monotonic())
            watch.begin()
            await asyncio.sleep(end - time.monotonic())
            watch.end()

        await asyncio.gather(
            measure(),
            *(
                _stream(stub, run.options, camera, _due(film, begin, end, number / len(cameras)))
                for number, camera in enumerate(cameras)
            ),
        )
    return cameras


async def _due(
    film: list[bytes], begin: float, end: float, phase: float
) -> AsyncIterator[tuple[bytes, bool]]:
    """The frames when they are due, and whether each is measured."""
    number = 0
    while (at := begin + (number + phase) / _FPS) < end:
        await asyncio.sleep(at - time.monotonic())
        yield film[(number + round(phase * len(film))) % len(film)], at >= begin + _WARM_UP_S
        number += 1


async def _stream(
    stub: Any,
    options: face_pb2.FaceOptions,
    camera: _Camera,
    images: AsyncIterator[tuple[bytes, bool]],
    answered: Callable[[], None] = lambda: None,
) -> None:
    sent_at: dict[int, float] = {}
    measured: set[int] = set()

    async def requests() -> AsyncIterator[service_pb2.ClassifyStreamRequest]:
        config = service_pb2.StreamConfig(
            camera_id="hall",
            model=_MODEL,
            smoothing=service_pb2.Smoothing(window=5, required=3, required_to_alert=2),
            faces=options,
        )
        yield service_pb2.ClassifyStreamRequest(config=config)
        number = 0
        async for image, is_measured in images:
            frame = service_pb2.Frame(frame_id=number, image=image_pb2.Image(encoded=image))
            if is_measured:
                measured.add(number)
                camera.num_sent += 1
            sent_at[number] = time.monotonic()
            yield service_pb2.ClassifyStreamRequest(frame=frame)
            number += 1

    async for response in stub.ClassifyStream(requests()):
        if response.frame_id in measured:
            camera.statuses[response.status] += 1
            camera.num_alerts += response.changed and response.alert
            if response.status == _CLASSIFIED:
                elapsed_s = time.monotonic() - sent_at[response.frame_id]
                camera.latencies_ms.append(1000 * elapsed_s)
                camera.num_faces.append(len(response.prediction.faces))
                camera.num_seen += any(face.seen for face in response.prediction.faces)
        answered()


def _hour(command: Sequence[str], behind: Sequence[Path], num_frames: int) -> None:
    """Frames without anybody, one after another as fast as they are answered."""
    camera, start = _Camera(), time.monotonic()
    with started(command) as server:

        async def watch() -> None:
            ready = asyncio.Semaphore(1)

            async def images() -> AsyncIterator[tuple[bytes, bool]]:
                for image in islice(_views(behind), num_frames):
                    await ready.acquire()
                    yield image, True

            async with grpc.aio.insecure_channel(server.address) as channel:
                stub: Any = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
                await _stream(stub, face_pb2.FaceOptions(), camera, images(), ready.release)

        asyncio.run(watch())
    print(
        f"{camera.statuses[_CLASSIFIED]} frames without anybody, "
        f"{num_frames / _FRAMES_A_VIEW:.0f} views, in {time.monotonic() - start:.0f} s: "
        f"{camera.num_alerts} alerts, {camera.num_seen} frames with a false face"
    )


def _views(behind: Sequence[Path]) -> Iterator[bytes]:
    """A view after another, each for some frames that differ by noise."""
    rng = np.random.default_rng(5)
    while True:
        view = frames.empty(rng, behind).pixels
        for _ in range(_FRAMES_A_VIEW):
            yield _filmed(rng, view)


def _films(people: Sequence[Portrait], behind: Sequence[Path]) -> dict[str, list[bytes]]:
    """The frames of the three scenes, 20 seconds each."""
    rng = np.random.default_rng(1)
    hall = frames.empty(rng, behind).pixels
    large = [one for one in people if one.size_px >= _FACE_SIZES_PX[-1]]
    chosen = [large[int(i)] for i in rng.choice(len(large), 3, replace=False)]
    walking = [with_people(hall, chosen, i / _FPS) for i in range(_FILM_FRAMES)]
    return {
        "3 walk": [_filmed(rng, pixels) for pixels in walking],
        "3 stand": [_filmed(rng, walking[0]) for _ in range(_FILM_FRAMES)],
        "nobody": [_filmed(rng, hall) for _ in range(_FILM_FRAMES)],
    }


def with_people(
    hall: NDArray[np.uint8], people: Sequence[Portrait], at_s: float
) -> NDArray[np.uint8]:
    """The hall with each of the people on their way to and fro, above each other."""
    image = Image.fromarray(hall)
    lane = HEIGHT // len(people)
    for number, (person, size, speed) in enumerate(
        zip(people, _FACE_SIZES_PX, _SPEEDS, strict=True)
    ):
        scale = min(size / person.size_px, lane / person.pixels.shape[0])
        width, height = (round(n * scale) for n in person.pixels.shape[1::-1])
        photo = Image.fromarray(person.pixels).resize((width, height), Image.Resampling.BILINEAR)
        span = WIDTH - width
        way = (span * (number + 1) / 4 + speed * at_s) % (2 * span)
        image.paste(photo, (round(min(way, 2 * span - way)), number * lane))
    return np.asarray(image)


def _filmed(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> bytes:
    noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(_NOISE)
    return jpeg(np.clip(pixels + noise, 0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
