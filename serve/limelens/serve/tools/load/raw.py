"""What a server is compared with: decoding and onnxruntime in a loop, and nothing else there."""

from __future__ import annotations

import io
import multiprocessing
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.errors import LimelensError
from limelens.serve.image import read_fitted

Decoder = Literal["pillow", "limelens"]

NUM_THREADS: Final = 2
_WARMUP: Final = 5


@dataclass(frozen=True)
class RawFigures:
    """What decoding, resizing and the model alone take.

    Args:
        per_s: Images a second, of all threads together.
        cpu_ms: CPU of one image.
    """

    per_s: float
    cpu_ms: float


def measure_raw(
    model: Path,
    images: Sequence[bytes],
    seconds: float,
    *,
    num_threads: int = NUM_THREADS,
    decoder: Decoder = "pillow",
) -> RawFigures:
    """Runs the floor in a process of its own.

    Args:
        model: A bundle's file.
        images: Encoded images, taken in turns.
        seconds: For how long.
        num_threads: Each with one thread of onnxruntime's.
        decoder: What reads and resizes the images: Pillow, as most would write it, or
            limelens' own reader.

    Raises:
        LimelensError: The process failed.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_measure,
        args=(model, tuple(images), seconds, num_threads, decoder, theirs),
        daemon=True,
    )
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        raise LimelensError("the process that measures the floor ended without a word") from None
    finally:
        process.join()
    if isinstance(found, str):
        raise LimelensError(f"the floor could not be measured: {found}")
    assert isinstance(found, RawFigures)
    return found


def _measure(
    model: Path,
    images: tuple[bytes, ...],
    seconds: float,
    num_threads: int,
    decoder: Decoder,
    connection: Connection,
) -> None:
    try:
        connection.send(_loop(model, images, seconds, num_threads, decoder))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def _loop(
    model: Path, images: tuple[bytes, ...], seconds: float, num_threads: int, decoder: Decoder
) -> RawFigures:
    from limelens.serve.bundle import load_bundle

    bundle = load_bundle(model, "cpu")
    session, rule = bundle.session, bundle.metadata.resize
    counts = [0] * num_threads
    begin = threading.Barrier(num_threads + 1)
    ended = threading.Event()

    def by_pillow(data: bytes) -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(data)) as image:
            seen = image.convert("RGB").resize(
                (rule.width, rule.height), Image.Resampling.BILINEAR, reducing_gap=3.0
            )
        return np.asarray(seen)

    def by_limelens(data: bytes) -> NDArray[np.uint8]:
        return read_fitted(data, rule)

    read = by_pillow if decoder == "pillow" else by_limelens

    def one(data: bytes) -> None:
        session.run(["probabilities"], {"images": read(data)[np.newaxis]})

    def work(number: int) -> None:
        for turn in range(_WARMUP):
            one(images[turn % len(images)])
        begin.wait()
        turn = number
        while not ended.is_set():
            one(images[turn % len(images)])
            turn += 1
        counts[number] = turn - number

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(num_threads)]
    for thread in threads:
        thread.start()
    begin.wait()
    began, cpu_before = time.monotonic(), time.process_time()
    ended.wait(seconds)
    ended.set()
    for thread in threads:
        thread.join()
    spent, cpu_s = time.monotonic() - began, time.process_time() - cpu_before
    total = sum(counts)
    return RawFigures(total / spent, 1000 * cpu_s / max(1, total))
