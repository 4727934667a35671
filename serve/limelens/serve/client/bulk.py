"""Many images in several requests: cut to what a server takes, broken ones kept apart.

It knows what to ask next and what an answer means for it, and asks nobody: `answering` hands out
requests and is sent their answers, so that both clients, who each ask in their own way, share it.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

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
from limelens.serve.errors import (
    InvalidImageError,
    InvalidRequestError,
    LimelensError,
    OverloadedError,
)
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2

OnError = Literal["raise", "return"]

BATCH_SIZE: Final = 16
"""Images in one request, where there are more: no server is much faster with more at a time,
and of a broken one fewer others are sent again."""
AT_ONCE: Final = 4
"""Requests under way at a time."""
_LONGEST_PAUSE_S: Final = 10.0
_PATIENCE_S: Final = 600.0
_AT: Final = re.compile(r"images\[(\d+)\](.*)", re.DOTALL)


@dataclass(frozen=True)
class Job:
    """Images for which one request is enough, as a rule.

    Args:
        images: Each with its place among all.
        arguments: As of `Client.classify`.
        on_error: Whether a broken image ends it all, or becomes a `ImageFailure`.
        patience_s: How long a busy server is asked again since it last took images.
    """

    images: Sequence[tuple[int, ImageInput]]
    arguments: ClassifyArguments
    on_error: OnError
    patience_s: float


@dataclass(frozen=True)
class Part:
    """What became of a job.

    Args:
        results: One for each image, in their order.
        model: Who answered; None where nobody was asked.
        timings_ms: Where the time went.
    """

    results: tuple[Prediction | ImageFailure, ...]
    model: ModelRef | None
    timings_ms: Timings


ClassifyOptions = Generator[
    service_pb2.ClassifyRequest | float, service_pb2.ClassifyResponse | None, Part
]
"""Hands out a request, whose answer is sent or whose error is thrown into it, or seconds to wait,
and in the end returns what came of it."""


def jobs(
    images: Iterator[ImageInput],
    size: int,
    arguments: ClassifyArguments,
    on_error: OnError,
    patience_s: float | None = None,
) -> Iterator[Job]:
    """Images by `size`; no more are taken from the source than a job needs."""
    numbered = enumerate(images)
    while some := tuple(itertools.islice(numbered, size)):
        yield Job(some, arguments, on_error, _PATIENCE_S if patience_s is None else patience_s)


def answering(job: Job) -> ClassifyOptions:
    """Gets one job's images answered.

    Raises:
        LimelensError: As `Client.classify`; of an image's own where they are not returned.
        OSError: Likewise.
    """
    results: dict[int, Prediction | ImageFailure] = {}
    images = dict(job.images)

    def failed(index: int, error: Exception) -> None:
        if job.on_error == "raise":
            raise error
        image = images[index]
        path = Path(image) if isinstance(image, str | os.PathLike) else None
        results[index] = ImageFailure(index, path, error)

    region = job.arguments.get("region")
    messages: dict[int, image_pb2.Image] = {}
    for index, image in job.images:
        try:
            messages[index] = image_message(image, region, f"images[{index}]")
        except (InvalidRequestError, OSError) as error:
            failed(index, error)
    waiting = _groups(messages)
    answers: list[Classification] = []
    gives_up_at = time.monotonic() + job.patience_s
    while waiting:
        group = waiting.pop(0)
        request = classify_request((), **job.arguments)
        request.images.extend(messages[index] for index in group)
        try:
            response = yield request
        except OverloadedError as error:
            # Others are served too: it will be our turn.
            pause_s = min(error.retry_after_s, _LONGEST_PAUSE_S)
            if time.monotonic() + pause_s > gives_up_at:
                raise
            yield pause_s
            waiting.insert(0, group)
        except InvalidRequestError as error:
            at = _AT.match(error.field)
            if at is not None and int(at[1]) < len(group):
                index = group[int(at[1])]
                failed(index, _moved(error, f"images[{index}]{at[2]}"))
                group.remove(index)
                if group:
                    waiting.insert(0, group)
            elif error.field not in ("", "images"):  # what is asked of all images alike
                raise
            elif len(group) > 1:  # too many for this server, or too many bytes
                half = len(group) // 2
                waiting[:0] = [group[:half], group[half:]]
            else:
                failed(group[0], error)
        else:
            assert response is not None  # only a pause is answered by nothing
            answers.append(classification(response))
            results.update(zip(group, answers[-1].predictions, strict=True))
            gives_up_at = time.monotonic() + job.patience_s
    return Part(
        tuple(results[index] for index, _ in job.images),
        answers[-1].model if answers else None,
        _sum([one.timings_ms for one in answers]),
    )


def advance(
    steps: ClassifyOptions,
    response: service_pb2.ClassifyResponse | None = None,
    error: LimelensError | None = None,
) -> service_pb2.ClassifyRequest | float | Part:
    """The next step of `answering`, or what came of it all.

    Args:
        steps: Where it stands.
        response: What its last request was answered.
        error: How its last request failed.
    """
    try:
        return steps.send(response) if error is None else steps.throw(error)
    except StopIteration as stopped:
        part: Part = stopped.value
        return part


def check_sizes(batch_size: int, at_once: int) -> None:
    """Refuses what no batch can be made of.

    Raises:
        InvalidRequestError: One of them is below 1.
    """
    for name, value in (("batch_size", batch_size), ("at_once", at_once)):
        if value < 1:
            raise InvalidRequestError(name, f"{value}; expected 1 or more")


def merged(parts: Sequence[Part]) -> Classification:
    """The parts as one answer; every image has a prediction."""
    whole = partial(parts)
    assert whole.model is not None  # failures were raised, and no images are refused
    return Classification(
        tuple(one for one in whole.results if isinstance(one, Prediction)),
        whole.model,
        whole.timings_ms,
    )


def partial(parts: Sequence[Part]) -> PartialClassification:
    """The parts as one answer, with failures among the predictions."""
    models = [part.model for part in parts if part.model is not None]
    return PartialClassification(
        tuple(one for part in parts for one in part.results),
        models[-1] if models else None,
        _sum([part.timings_ms for part in parts]),
    )


def _groups(messages: dict[int, image_pb2.Image]) -> list[list[int]]:
    """Places of images that together are not too many bytes to be sent again."""
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
    """The same error, naming the image by its place among all."""
    if isinstance(error, InvalidImageError):
        return error.at(field)
    return InvalidRequestError(field, error.description)


def _sum(timings: Sequence[Timings]) -> Timings:
    return Timings(
        sum(one.queue for one in timings),
        sum(one.decode for one in timings),
        sum(one.run for one in timings),
        sum(one.total for one in timings),
    )
