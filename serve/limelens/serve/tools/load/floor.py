"""The floor for comparison with a server: decoding and onnxruntime alone in a loop."""

from __future__ import annotations

import io
import math
import multiprocessing
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.errors import LimelensError
from limelens.serve.image import read_fitted

_WARMUP: Final = 5


class FloorMetrics(NamedTuple):
    """Images a second of all threads together, and the CPU time of one image."""

    per_s: float
    cpu_ms: float


def measure_floor(
    model: Path,
    images: Sequence[bytes],
    seconds: float,
    *,
    num_threads: int = 2,
    decoder: Literal["pillow", "limelens"] = "pillow",
) -> FloorMetrics:
    """Measures the floor in a process of its own.

    Args:
        model: A bundle's file.
        images: Encoded images, taken in turns.
        seconds: For how long.
        num_threads: Threads, each with one thread of onnxruntime.
        decoder: Reads and resizes the images: Pillow, the usual way, or limelens' own reader.

    Raises:
        LimelensError: The process failed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        arguments = model, tuple(images), seconds, num_threads, decoder == "limelens"
        try:
            return process.submit(_measure, *arguments).result()
        except Exception as error:
            raise LimelensError(
                f"the floor could not be measured: {type(error).__name__}: {error}"
            ) from error


def _measure(
    model: Path, images: tuple[bytes, ...], seconds: float, num_threads: int, uses_limelens: bool
) -> FloorMetrics:
    from limelens.serve.bundle import load_bundle

    bundle = load_bundle(model, "cpu")
    session, rule = bundle.session, bundle.metadata.resize
    ended = threading.Event()

    def read(data: bytes) -> NDArray[np.uint8]:
        if uses_limelens:
            return read_fitted(data, rule)
        with Image.open(io.BytesIO(data)) as image:
            fitted = image.convert("RGB").resize(
                (rule.width, rule.height), Image.Resampling.BILINEAR, reducing_gap=3.0
            )
        return np.asarray(fitted)

    def run(first: int, most: float = math.inf) -> int:
        count = 0
        while not ended.is_set() and count < most:
            pixels = read(images[(first + count) % len(images)])
            session.run(["probabilities"], {"images": pixels[np.newaxis]})
            count += 1
        return count

    run(0, _WARMUP)
    began, cpu_before = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(num_threads) as pool:
        counts = [pool.submit(run, first) for first in range(num_threads)]
        time.sleep(seconds)
        ended.set()
        total = sum(count.result() for count in counts)
    spent_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_before
    return FloorMetrics(total / spent_s, 1000 * cpu_s / max(1, total))
