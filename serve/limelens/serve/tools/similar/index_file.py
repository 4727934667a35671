"""Writes an index of feature vectors to one file, and reads it.

The file is a zip archive of three members: `index.json` names the model and the images,
`vectors.faiss` holds the vectors in an index of faiss, and `space.npz` says how they, and queries,
are changed before they are compared (`space`). The archive's checksums find damage but do not prove
who wrote the file, so read only indexes from people whose bundles you would run.

It knows the content of the file, and nothing of how an index is searched.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.files import writing_whole
from limelens.serve.tools.similar.index import (
    IndexedImage,
    IndexRefusedError,
    Made,
    SimilarIndex,
    load_faiss,
)
from limelens.serve.tools.similar.space import FeatureSpace

_FORMAT: Final = 2
_WITHOUT_SPACE: Final = 1
"""Older indexes, which compare vectors as the model gives them."""


def save_index(index: SimilarIndex, path: str | os.PathLike[str]) -> None:
    """Writes an index whole or not at all; an older one stays until then.

    Raises:
        IndexRefusedError: The path is a folder.
        OSError: It cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IndexRefusedError(f"{path} is a folder; expected the name of a file to write")
    document: dict[str, Any] = {
        "format": _FORMAT,
        "made": asdict(index.made),
        "pictures": [[one.path, one.label] for one in index.images],
    }
    if index.confidences is not None:
        document["confidences"] = index.confidences.tolist()
    if index.predicted is not None:
        document["predicted"] = index.predicted
    if index.lengths is not None:
        document["lengths"] = index.lengths.tolist()
    vectors = memoryview(load_faiss().serialize_index(index.faiss_index))
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_whole(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("index.json", json.dumps(document), compress_type=zipfile.ZIP_DEFLATED)
        with archive.open("vectors.faiss", "w", force_zip64=True) as member:
            member.write(vectors)
        archive.writestr("space.npz", index.space.to_bytes())


def load_index(path: str | os.PathLike[str]) -> SimilarIndex:
    """Reads what `save_index` wrote.

    Raises:
        IndexRefusedError: The file is damaged or not an index.
        MissingExtraError: faiss is not installed.
        OSError: The file cannot be read.
    """
    faiss = load_faiss()
    path = Path(path)
    if path.is_dir():
        raise IndexRefusedError(f"{path} is a folder; expected a file that limelens index wrote")
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                document = json.loads(archive.read("index.json"))
                # A wrong byte is found here, before faiss reads it.
                data = archive.read("vectors.faiss")
                of_space = archive.read("space.npz") if "space.npz" in archive.namelist() else None
        # A damaged archive or document may raise almost anything, even OSError.
        except Exception as error:
            raise _refused(path, error) from error
    found = document.get("format") if isinstance(document, dict) else type(document).__name__
    # A new index whose space is gone would compare queries with vectors of another space.
    if found != (_WITHOUT_SPACE if of_space is None else _FORMAT):
        raise IndexRefusedError(
            f"{path}: index format {found!r}; this limelens reads {_WITHOUT_SPACE} and {_FORMAT}: "
            "make it again with limelens index"
        )
    try:
        made = Made(**document["made"])
        images = tuple(IndexedImage(str(one), str(label)) for one, label in document["pictures"])
        index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
        counted = index.ntotal, index.d
        if not isinstance(index, (faiss.IndexFlat, faiss.IndexHNSW)):
            raise ValueError(f"it is searched by {type(index).__name__}")
        if counted != (len(images), made.embedding_size) or not images:
            raise ValueError(
                f"{counted[0]} vectors of {counted[1]} numbers for {len(images)} images and an "
                f"embedding of {made.embedding_size}"
            )
        confidences, lengths = (
            _column(document, name, len(images)) for name in ("confidences", "lengths")
        )
        predicted = _labels(document, len(images))
        space = FeatureSpace()
        if of_space is not None:
            space = FeatureSpace.from_bytes(of_space, made.embedding_size)
    except Exception as error:
        raise _refused(path, error) from error
    return SimilarIndex(made, images, index, confidences, space, lengths, predicted)


def _column(document: dict[str, Any], name: str, count: int) -> NDArray[np.float32] | None:
    """A number of each image; None if the index has none, as those of limelens 0.1."""
    if name not in document:
        return None
    values = np.array(document[name], np.float32)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ValueError(f"{values.shape} {name} for {count} images")
    return values


def _labels(document: dict[str, Any], count: int) -> tuple[str, ...] | None:
    """The label that was predicted for each image; None if the index has none."""
    if "predicted" not in document:
        return None
    labels = tuple(str(one) for one in document["predicted"])
    if len(labels) != count:
        raise ValueError(f"{len(labels)} predicted labels for {count} images")
    return labels


def _refused(path: Path, error: Exception) -> IndexRefusedError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return IndexRefusedError(
        f"{path}: not an index, or a damaged one: {reason}; expected a file that limelens index "
        "wrote: make it again"
    )
