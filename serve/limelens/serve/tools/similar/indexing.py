"""Makes an index of a folder: finds its images, embeds them, lists what was left out.

It knows folders and labels; `embedding` knows how images become vectors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limelens.serve.folders import label_name, split_name, walk
from limelens.serve.image import SUFFIXES
from limelens.serve.tools.similar.embedding import Progress, Skipped, embed_files
from limelens.serve.tools.similar.index import (
    IndexedImage,
    IndexRefusedError,
    SimilarIndex,
    build_index,
    load_faiss,
)

if TYPE_CHECKING:
    from limelens.serve.client import Client


@dataclass(frozen=True, eq=False)
class Indexing:
    """The index of the images of a folder that could be read, and the other files."""

    index: SimilarIndex
    skipped: tuple[Skipped, ...]


def index_folder(
    client: Client,
    folder: str | os.PathLike[str],
    *,
    model: str = "",
    version: int = 0,
    progress: Progress | None = None,
) -> Indexing:
    """An index of every image in a folder and the folders in it.

    The model's version must stay the same throughout. Further arguments and errors are those of
    `embed_files`.

    Raises:
        IndexRefusedError: Also if the folder is missing or holds no image.
        MissingExtraError: faiss is not installed.
    """
    load_faiss()  # fails before the images are embedded
    images, others = find_images(folder)
    embedded = embed_files(client, folder, images, model=model, version=version, progress=progress)
    index = build_index(
        embedded.vectors,
        embedded.images,
        embedded.made,
        confidences=embedded.confidences,
        predicted=embedded.predicted,
    )
    return Indexing(index, (*embedded.skipped, *others))


def find_images(
    folder: str | os.PathLike[str],
) -> tuple[tuple[IndexedImage, ...], tuple[Skipped, ...]]:
    """The images below a folder, and files of other kinds.

    An image's label is the first folder that it lies in, below a split folder (`train`, `val`,
    `test` or another name of `split_name`) if there is one. Hidden files are ignored, and so are
    other files beside the label folders.

    Raises:
        IndexRefusedError: The folder is missing or holds no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise IndexRefusedError(f"{folder} is no folder; expected one that holds images")
    images: list[IndexedImage] = []
    others: list[Skipped] = []
    try:
        found = walk(folder)
    except OSError as error:
        raise IndexRefusedError(f"{folder} cannot be listed: {error.strerror}") from error
    for path in found.images:
        relative = path.relative_to(folder)
        images.append(IndexedImage(relative.as_posix(), _label(relative)))
    for one in found.others:
        if one.path.parent != folder or not one.path.is_file():
            others.append(Skipped(one.path.relative_to(folder).as_posix(), one.reason))
    if not images:
        raise IndexRefusedError(
            f"{folder} holds no images; expected files that end in {', '.join(sorted(SUFFIXES))}"
        )
    return tuple(images), tuple(others)


def _label(relative: Path) -> str:
    folders = relative.parent.parts
    if folders and split_name(folders[0]):
        folders = folders[1:]
    return label_name(folders[0]) if folders else ""
