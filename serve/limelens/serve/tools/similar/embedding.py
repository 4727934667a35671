"""Embeds files in batches, and lists those that cannot be read.

It knows batches, and what a server refuses. The client embeds, on a server or in this process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.session import unit_length
from limelens.serve.errors import InvalidRequestError, LimelensError, PermissionDeniedError
from limelens.serve.tools.ordered_prefetch import in_order
from limelens.serve.tools.similar.index import IndexedImage, IndexRefusedError, Made

if TYPE_CHECKING:
    from limelens.serve.client import Client
    from limelens.serve.client.results import ModelInfo, ModelRef

_MAX_BATCH: Final = 32
_MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
"""An image larger than that travels alone."""
_MAX_FILE_BYTES: Final = 256 * 1024 * 1024
_MAX_IN_FLIGHT: Final = 4
_IMAGE_FIELD: Final = re.compile(r"images\[(\d+)\]")

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, relative to the folder with forward slashes, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Embedded:
    """The feature vectors of some files: `(N, D)` float32 of length 1, one for each of `images`.

    Files that could not be read are in `skipped`; `made` names the model and the data.
    `confidences`, `(N,)` float32, are the highest probabilities that the model gave each image, and
    `predicted` their labels; None if the caller may not classify.
    """

    vectors: NDArray[np.float32]
    images: tuple[IndexedImage, ...]
    skipped: tuple[Skipped, ...]
    made: Made
    confidences: NDArray[np.float32] | None = None
    predicted: tuple[str, ...] | None = None


def embed_files(
    client: Client,
    folder: str | os.PathLike[str],
    images: Sequence[IndexedImage],
    *,
    model: str = "",
    version: int = 0,
    progress: Progress | None = None,
) -> Embedded:
    """The feature vectors of some files, whose paths are relative to a folder.

    Args:
        client: Embeds.
        folder: The folder.
        images: The files, at least one.
        model: As for `Client.embed`.
        version: As for `Client.embed`.
        progress: Called after each batch.

    Raises:
        IndexRefusedError: None of them can be read, or the model changed on the way.
        LimelensError: As `Client.embed`, if no image is to blame.
    """
    folder = Path(folder)
    info = client.model(model, version)
    vectors: list[NDArray[np.float32]] = []
    scores: list[_Scores | None] = []
    kept: list[IndexedImage] = []
    skipped: list[Skipped] = []
    first: _Found | None = None
    batches = _batches(folder, images, min(_MAX_BATCH, info.max_images))
    num_done = 0
    for batch in in_order(partial(_embed, client, folder, info), batches, _at_once()):
        num_done += len(batch.kept) + len(batch.skipped)
        kept += batch.kept
        skipped += batch.skipped
        for found in batch.found:
            first = first or found
            if found.model_digest != first.model_digest:
                raise IndexRefusedError(
                    f"{first.model.name} version {first.model.version} was replaced by another "
                    "model while its vectors were collected; run the command again"
                )
            vectors.append(found.vectors)
            scores.append(found.scores)
        if progress is not None:
            progress(num_done, len(images))
    if first is None:
        raise IndexRefusedError(
            f"{folder}: none of {len(images)} images can be read; the first is "
            f"{skipped[0].path}: {skipped[0].reason}"
        )
    joined = np.concatenate(vectors)
    made = Made(
        model=first.model.name,
        version=first.model.version,
        digest=first.model_digest,
        embedding_size=joined.shape[1],
        data=str(folder.resolve()),
    )
    known = [one for one in scores if one is not None]
    embedded = Embedded(joined, tuple(kept), tuple(skipped), made)
    if len(known) < len(scores):
        return embedded
    return replace(
        embedded,
        confidences=np.concatenate([one.confidences for one in known]),
        predicted=tuple(label for one in known for label in one.predicted),
    )


@dataclass(frozen=True, eq=False)
class _Scores:
    """How sure the model is of some images, and of which label; see `Embedded`."""

    confidences: NDArray[np.float32]
    predicted: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Found:
    """What the model gave for some images; see `Embedded`."""

    vectors: NDArray[np.float32]
    scores: _Scores | None
    model: ModelRef
    model_digest: str


@dataclass(frozen=True, eq=False)
class _Batch:
    """The result of one batch; `found` has a row for each of `kept`, in any number of parts."""

    found: tuple[_Found, ...]
    kept: tuple[IndexedImage, ...]
    skipped: tuple[Skipped, ...]


def _embed(client: Client, folder: Path, info: ModelInfo, batch: Sequence[IndexedImage]) -> _Batch:
    """Embeds one batch, without images that cannot be read."""
    waiting: list[tuple[IndexedImage, bytes]] = []
    skipped: list[Skipped] = []
    for image in batch:
        try:
            waiting.append((image, _bytes(folder / image.path)))
        except (OSError, LimelensError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            skipped.append(Skipped(image.path, reason or str(error)))
    while waiting:
        try:
            data = [data for _, data in waiting]
            found = _look_at(client, info, data)
        except InvalidRequestError as error:
            named = _IMAGE_FIELD.match(error.field)
            if named is not None and int(named[1]) < len(waiting):
                image, _ = waiting.pop(int(named[1]))
            elif len(waiting) == 1 and not error.field:  # too large for the server
                image, _ = waiting.pop()
            elif not error.field:  # too large together
                parts = [_embed(client, folder, info, [image]) for image, _ in waiting]
                return _Batch(
                    tuple(found for one in parts for found in one.found),
                    tuple(image for one in parts for image in one.kept),
                    (*skipped, *(left_out for one in parts for left_out in one.skipped)),
                )
            else:
                raise
            skipped.append(Skipped(image.path, error.description))
        else:
            return _Batch((found,), tuple(one for one, _ in waiting), tuple(skipped))
    return _Batch((), (), tuple(skipped))


def _look_at(client: Client, info: ModelInfo, data: list[bytes]) -> _Found:
    """Vectors and scores by one run of the model for each image, and one more for the digest.

    Who may not classify gets the vectors alone.
    """
    model, version = info.name, info.version
    try:
        found = client.classify(data, model=model, version=version, top_k=1, embedding=True)
    except PermissionDeniedError:
        embedded = client.embed(data, model=model, version=version, normalize=True)
        return _Found(embedded.vectors, None, embedded.model, embedded.model_digest)
    # A classification does not say which model's vectors these are.
    digest = client.embed(data[:1], model=model, version=version).model_digest
    return _Found(
        unit_length(np.array([one.embedding for one in found], np.float32)),
        _Scores(
            np.array([one.scores[0].probability for one in found], np.float32),
            tuple(one.scores[0].label for one in found),
        ),
        found.model,
        digest,
    )


def _bytes(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise InvalidRequestError("", f"{size:,} bytes; expected at most {_MAX_FILE_BYTES:,}")
    return path.read_bytes()


def _batches(
    folder: Path, images: Sequence[IndexedImage], most: int
) -> Iterator[tuple[IndexedImage, ...]]:
    batch: list[IndexedImage] = []
    batch_bytes = 0
    for image in images:
        try:
            size = (folder / image.path).stat().st_size
        except OSError:  # reported when it is read
            size = 0
        if batch and (len(batch) == most or batch_bytes + size > _MAX_BATCH_BYTES):
            yield tuple(batch)
            batch, batch_bytes = [], 0
        batch.append(image)
        batch_bytes += size
    if batch:
        yield tuple(batch)


def _at_once() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_MAX_IN_FLIGHT, cores or 1)
