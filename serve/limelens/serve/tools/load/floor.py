"""The floor for comparison with a server: decoding and onnxruntime alone in a loop."""

from __future__ import annotations

import io
import multiprocessing
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.errors import LimelensError
from limelens.serve.image import read_fitted

Decoder = Literal["pillow", "limelens"]

_WARMUP: Final = 5


@dataclass(frozen=True)
class FloorMetrics:
    """The speed of decoding, resizing and the model alone.

    Args:
        per_s: Images a second, of all threads together.
        cpu_ms: CPU time of one image.
    """

    per_s: float
    cpu_ms: float


def measure_floor(
    model: Path,
    images: Sequence[bytes],
    seconds: float,
    *,
    num_threads: int = 2,
    decoder: Decoder = "pillow",
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
        try:
            return process.submit(
                _measure, model, tuple(images), seconds, num_threads, decoder
            ).result()
        except Exception as error:
            raise LimelensError(
                f"the floor could not be measured: {type(error).__name__}: {error}"
            ) from error


def _measure(
    model: Path, images: tuple[bytes, ...], seconds: float, num_threads: int, decoder: Decoder
) -> FloorMetrics:
    from limelens.serve.bundle import load_bundle

    bundle = load_bundle(model, "cpu")
    session, rule = bundle.session, bundle.metadata.resize
    ended = threading.Event()

    def read(data: bytes) -> NDArray[np.uint8]:
        if decoder == "limelens":
            return read_fitted(data, rule)
        with Image.open(io.BytesIO(data)) as image:
            fitted = image.convert("RGB").resize(
                (rule.width, rule.height), Image.Resampling.BILINEAR, reducing_gap=3.0
            )
        return np.asarray(fitted)

    def run(turn: int) -> None:
        data = images[turn % len(images)]
        session.run(["probabilities"], {"images": read(data)[np.newaxis]})

    def work(first: int) -> int:
        turn = first
        while not ended.is_set():
            run(turn)
            turn += 1
        return turn - first

    for turn in range(_WARMUP):
        run(turn)
    began, cpu_before = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(num_threads) as pool:
        counts = [pool.submit(work, first) for first in range(num_threads)]
        time.sleep(seconds)
        ended.set()
        total = sum(count.result() for count in counts)
    spent_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_before
    return FloorMetrics(total / spent_s, 1000 * cpu_s / max(1, total))
