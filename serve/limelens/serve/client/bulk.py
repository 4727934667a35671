"""Many images in several requests: cut to sizes that a server accepts, without broken images.

It knows which request comes next and what a response or an error means for it; functions for
sending and waiting are passed in.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from limelens.serve.client.connection import MAX_REQUEST_BYTES
from limelens.serve.client.requests import (
    ClassifyArguments,
    ImageInput,
    classify_request,
    image_message,
)
from limelens.serve.client.responses import classification
from limelens.serve.client.results import (
    Classification,
    ImageFailure,
    ModelRef,
    PartialClassification,
    Timings,
)
from limelens.serve.decisions.decision import Prediction
from limelens.serve.errors import InvalidImageError, InvalidRequestError, OverloadedError
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2

OnError = Literal["raise", "return"]

BATCH_SIZE: Final = 16
"""Most images in one request: no server is much faster with more, and fewer are sent again."""
AT_ONCE: Final = 4
"""Requests under way at a time."""
_LONGEST_PAUSE_S: Final = 10.0
_PATIENCE_S: Final = 600.0
_AT: Final = re.compile(r"images\[(\d+)\](.*)", re.DOTALL)


@dataclass(frozen=True)
class Batch:
    """Images for which one request is enough, as a rule.

    Args:
        images: Each with its place among all.
        arguments: As of `Client.classify`.
        on_error: Whether a broken image ends the call, or becomes an `ImageFailure`.
        patience_s: How long to retry a busy server after it last accepted images.
    """

    images: Sequence[tuple[int, ImageInput]]
    arguments: ClassifyArguments
    on_error: OnError
    patience_s: float


@dataclass(frozen=True)
class BatchResult:
    """The results of one batch, in order; the model is None if no request succeeded."""

    results: tuple[Prediction | ImageFailure, ...]
    model: ModelRef | None
    timings_ms: Timings


def batches(
    images: Iterator[ImageInput],
    size: int,
    arguments: ClassifyArguments,
    on_error: OnError,
    patience_s: float | None = None,
) -> Iterator[Batch]:
    """Groups images by `size`; takes no more from the source than a batch needs."""
    numbered = enumerate(images)
    while some := tuple(itertools.islice(numbered, size)):
        yield Batch(some, arguments, on_error, _PATIENCE_S if patience_s is None else patience_s)


async def classify_batch(
    batch: Batch,
    classify: Callable[[service_pb2.ClassifyRequest], Awaitable[service_pb2.ClassifyResponse]],
    in_thread: Callable[..., Awaitable[Any]],
    sleep: Callable[[float], Awaitable[None]],
) -> BatchResult:
    """Classifies the images of one batch; how to send, to call in a thread and to wait is given.

    Raises:
        LimelensError: As `Client.classify`; an image's own only if failures are raised.
        OSError: Likewise.
    """
    results: dict[int, Prediction | ImageFailure] = {}
    images = dict(batch.images)

    def failed(index: int, error: Exception) -> None:
        if batch.on_error == "raise":
            raise error
        image = images[index]
        path = Path(image) if isinstance(image, str | os.PathLike) else None
        results[index] = ImageFailure(index, path, error)

    def read() -> dict[int, image_pb2.Image]:
        messages = {}
        region = batch.arguments.get("region")
        for index, image in batch.images:
            try:
                messages[index] = image_message(image, region, f"images[{index}]")
            except (InvalidRequestError, OSError) as error:
                failed(index, error)
        return messages

    messages = await in_thread(read)
    waiting = _groups(messages)
    found: list[Classification] = []
    gives_up_at = time.monotonic() + batch.patience_s
    while waiting:
        group = waiting.pop(0)
        request = classify_request((), **batch.arguments)
        request.images.extend(messages[index] for index in group)
        try:
            response = await classify(request)
        except OverloadedError as error:
            # The server is busy with others: a later request gets through.
            pause_s = min(error.retry_after_s, _LONGEST_PAUSE_S)
            if time.monotonic() + pause_s > gives_up_at:
                raise
            await sleep(pause_s)
            waiting.insert(0, group)
        except InvalidRequestError as error:
            at = _AT.match(error.field)
            if at is not None and int(at[1]) < len(group):
                index = group[int(at[1])]
                failed(index, _moved(error, f"images[{index}]{at[2]}"))
                group.remove(index)
                if group:
                    waiting.insert(0, group)
            elif error.field not in ("", "images"):  # wrong with the arguments, not an image
                raise
            elif len(group) > 1:  # too many for this server, or too many bytes
                half = len(group) // 2
                waiting[:0] = [group[:half], group[half:]]
            else:
                failed(group[0], error)
        else:
            found.append(classification(response))
            results.update(zip(group, found[-1].predictions, strict=True))
            gives_up_at = time.monotonic() + batch.patience_s
    return BatchResult(
        tuple(results[index] for index, _ in batch.images),
        found[-1].model if found else None,
        _sum([one.timings_ms for one in found]),
    )


def merged(parts: Sequence[BatchResult]) -> Classification:
    """The parts as one result; every image has a prediction."""
    whole = partial(parts)
    assert whole.model is not None  # failures were raised, and a call without images is refused
    return Classification(
        tuple(one for one in whole.results if isinstance(one, Prediction)),
        whole.model,
        whole.timings_ms,
    )


def partial(parts: Sequence[BatchResult]) -> PartialClassification:
    """The parts as one result, with failures among the predictions."""
    models = [part.model for part in parts if part.model is not None]
    return PartialClassification(
        tuple(one for part in parts for one in part.results),
        models[-1] if models else None,
        _sum([part.timings_ms for part in parts]),
    )


def _groups(messages: dict[int, image_pb2.Image]) -> list[list[int]]:
    """Indices of images that together are few enough bytes for gRPC to retry."""
    groups: list[list[int]] = []
    size = 0
    for index, message in messages.items():
        size += message.ByteSize()
        if not groups or size > MAX_REQUEST_BYTES:
            groups.append([])
            size = message.ByteSize()
        groups[-1].append(index)
    return groups


def _moved(error: InvalidRequestError, field: str) -> InvalidRequestError:
    """The same error with the image's place among all."""
    if isinstance(error, InvalidImageError):
        return error.at(field)
    return InvalidRequestError(field, error.description)


def _sum(timings: Sequence[Timings]) -> Timings:
    return Timings(
        *(
            sum(getattr(one, name) for one in timings)
            for name in ("queue", "decode", "run", "total")
        )
    )
