"""What a short program without limelens reaches, with Pillow and onnxruntime."""

from __future__ import annotations

import functools
import io
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from benchmarks.bulk.rows import Row, drain

CHUNKS: Final = (4, 8, 16)
_REDUCING_GAP: Final = 3.0
"""As limelens resizes: with another number the model would see other pixels."""


def floor_rows(
    model: Path,
    size: tuple[int, int],
    images: Sequence[Path],
    workers: int,
    chunks: Sequence[int],
    stack: ExitStack,
) -> list[Row]:
    """Rows that decode and run, which are floors, and rows that run the model alone.

    Args:
        model: Its file.
        size: Height and width of its input.
        images: JPEG files.
        workers: Threads, or processes, at once.
        chunks: Images that are decoded and run together; a row for each.
        stack: Ends them.
    """
    threads = stack.enter_context(ThreadPoolExecutor(workers))
    spawned = multiprocessing.get_context("spawn")
    processes = stack.enter_context(ProcessPoolExecutor(workers, spawned))
    session = _session(str(model))
    ready = np.random.default_rng(0).integers(0, 256, (max(chunks), *size, 3), dtype=np.uint8)

    def decoded(pool: Executor, parts: Sequence[Sequence[Path]]) -> Callable[[], None]:
        work = functools.partial(_decode_and_run, str(model), size)
        return lambda: drain(pool.map(work, parts))

    def alone(parts: Sequence[Sequence[Path]]) -> Callable[[], None]:
        return lambda: drain(threads.map(lambda part: _run(session, ready[: len(part)]), parts))

    cut = {n: [images[i : i + n] for i in range(0, len(images), n)] for n in chunks}
    kinds: list[tuple[str, Callable[[Sequence[Sequence[Path]]], Callable[[], None]], bool]] = [
        (f"Pillow and onnxruntime, {workers} threads", functools.partial(decoded, threads), True),
        (f"the same, {workers} processes", functools.partial(decoded, processes), True),
        (f"onnxruntime alone, {workers} threads", alone, False),
    ]
    return [
        Row(f"{name}, chunks of {chunk}", make(parts), is_floor, is_here="threads" in name)
        for name, make, is_floor in kinds
        for chunk, parts in cut.items()
    ]


@functools.cache
def _session(model: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _decode_and_run(model: str, size: tuple[int, int], paths: Sequence[Path]) -> None:
    _run(_session(model), np.stack([_decode(path, size) for path in paths]))


def _decode(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        bilinear = Image.Resampling.BILINEAR
        small = image.convert("RGB").resize(size[::-1], bilinear, reducing_gap=_REDUCING_GAP)
    return np.asarray(small)


def _run(session: Any, images: NDArray[np.uint8]) -> None:
    session.run(["probabilities"], {"images": images})
