"""The front processes: callers in a closed loop that decode JPEGs and wait for probabilities.

A front works like the server without gRPC: an event loop, and worker threads that decode.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.handover.slots import FrontEngine, Plan, Wake
from benchmarks.untrained import smooth_images
from limelens.serve.bundle import Bundle, load_bundle, read_metadata
from limelens.serve.image import read_fitted
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.scheduling.cpu import CpuEngine
from limelens.serve.scheduling.engine import Engine
from limelens.serve.scheduling.gpu import GpuEngine
from limelens.serve.scheduling.inference import Completion

_NUM_JPEGS: Final = 32
_SIDE: Final = 224


@dataclass(frozen=True, eq=False)
class Job:
    """The settings of all processes.

    Args:
        model: A `model.onnx`.
        device: `cuda` or `cpu`.
        expected: `(N, C)` probabilities of `sent_jpegs` by a plain session on the CPU.
        num_threads: Threads of a front that decode.
        max_queue: Images that may wait in a front.
    """

    model: Path
    device: str
    expected: NDArray[np.float32]
    num_threads: int
    max_queue: int


@dataclass(frozen=True)
class Order:
    """One measurement.

    Args:
        callers: Of this front.
        begin: When it begins, by `time.monotonic`; callers call before already.
        end: When it ends.
    """

    callers: int
    begin: float
    end: float


@dataclass(frozen=True, eq=False)
class FrontMetrics:
    """The measurements of one front's callers.

    Args:
        latencies_s: Latencies of all results between begin and end.
        num_runs: Runs of the model for all results; a shared run counts in parts.
        num_answers: Number of all results.
        difference: Largest difference of a probability from the expected one; NaN without results.
    """

    latencies_s: NDArray[np.float64]
    num_runs: float
    num_answers: int
    difference: float


def sent_jpegs() -> list[bytes]:
    """The images to send, in turn; the same in every process.

    Each process draws them itself: with large arguments, starting a process that dies early never
    returns.
    """
    return [_jpeg(pixels) for pixels in smooth_images(_NUM_JPEGS, _SIDE, _SIDE)]


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def expected_of(model: Path) -> NDArray[np.float32]:
    """`(N, C)` probabilities of `sent_jpegs` by a plain session on the CPU."""
    bundle = load_bundle(model, "cpu")
    rule = bundle.metadata.resize
    return bundle.predict(np.stack([read_fitted(jpeg, rule) for jpeg in sent_jpegs()]))


def run_independent(pipe: Connection, job: Job) -> None:
    """A front that has sessions of its own.

    Args:
        pipe: Is sent None when the model is ready; takes orders and returns metrics.
        job: See there.
    """
    bundle = load_bundle(job.model, job.device, num_threads=job.num_threads)
    batch_sizes: list[int] = []

    def note(completion: Completion) -> None:
        batch_sizes.append(completion.batch_size)

    engine: Engine
    if bundle.gpu is None:
        engine = CpuEngine(num_threads=job.num_threads, max_queue=job.max_queue, on_completion=note)
    else:
        engine = GpuEngine(
            bundle.gpu.thread,
            num_threads=job.num_threads,
            max_queue=job.max_queue,
            on_completion=note,
        )
    asyncio.run(_follow(pipe, job, bundle, engine, batch_sizes))


def run_front(
    pipe: Connection, job: Job, plan: Plan, index: int, wake: Wake, answered: Wake
) -> None:
    """A front that hands images to the engine process.

    Args:
        pipe: As for `run_independent`.
        job: See there.
        plan: Of the memory.
        index: Which of the fronts this is.
        wake: Of the engine process.
        answered: Is sent when results are ready.
    """
    # It has no session and is never run here.
    bundle = Bundle(read_metadata(job.model), 0, job.model, job.device, "", 1, session=None)
    engine = FrontEngine(
        plan, index, wake, answered, num_threads=job.num_threads, max_queue=job.max_queue
    )

    async def follow() -> None:
        asyncio.get_running_loop().add_reader(answered.fd, engine.take_answers)
        await _follow(pipe, job, bundle, engine, engine.batch_sizes)

    asyncio.run(follow())


async def _follow(
    pipe: Connection, job: Job, bundle: Bundle, engine: Engine, batch_sizes: list[int]
) -> None:
    """Reports that it is ready and follows orders until the pipe is closed."""
    jpegs = sent_jpegs()
    pipe.send(None)
    while True:
        order: Order = pipe.recv()  # the loop has nothing else to do meanwhile
        batch_sizes.clear()
        pipe.send(await _call(order, job, jpegs, bundle, engine, batch_sizes))


async def _call(
    order: Order,
    job: Job,
    jpegs: Sequence[bytes],
    bundle: Bundle,
    engine: Engine,
    batch_sizes: list[int],
) -> FrontMetrics:
    images = [EncodedImage("", jpeg) for jpeg in jpegs]
    latencies_s: list[float] = []
    answers: list[tuple[int, NDArray[np.float32]]] = []

    async def call(caller: int) -> None:
        for number in itertools.count(caller):
            index = number % len(images)
            begun = time.monotonic()
            if begun >= order.end:
                return
            (result,) = await engine.classify(bundle, [replace(images[index])])
            ended = time.monotonic()
            answers.append((index, result.probabilities))
            if order.begin <= ended < order.end:
                latencies_s.append(ended - begun)

    await asyncio.gather(*(call(caller) for caller in range(order.callers)))
    differences = [np.abs(found - job.expected[index]).max() for index, found in answers]
    return FrontMetrics(
        np.array(latencies_s),
        sum(1 / size for size in batch_sizes if size),
        len(answers),
        float(max(differences, default=np.nan)),
    )
