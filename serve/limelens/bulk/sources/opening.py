"""Finds out what an input is: a folder of images, tables or shards, one file, or a pattern."""

from __future__ import annotations

import glob
import os
from pathlib import Path, PurePath
from typing import Final

from limelens.bulk.sources.folder import ImageFolder
from limelens.bulk.sources.item import InputError
from limelens.bulk.sources.shards import Shards
from limelens.bulk.sources.source import Source
from limelens.bulk.sources.table import Tables, usual_column
from limelens.serve.folders import could_be_image, walk
from limelens.serve.image import SUFFIXES

_TABLE: Final = ".parquet"
_SHARD: Final = ".tar"
_PACKED: Final = (".tgz", ".gz", ".zst", ".bz2", ".xz")
_EXPECTED: Final = "expected images, Parquet files or .tar shards"


def open_source(given: str, column: str = "") -> Source:
    """Lists an input.

    Args:
        given: A folder, a file, or a pattern such as `shards/*.tar`.
        column: Of tables: where the images, paths or URLs are; empty: the usual names.

    Raises:
        InputError: There is nothing there, nothing in it, or things of several kinds.
        OSError: The folder cannot be listed.
    """
    path = Path(given)
    if path.is_dir():
        # Of the files alone: a list of a million does not stay in memory as paths.
        names = [os.fspath(one)[_len_of(path) :] for one in walk(path).files]
        return _of_names(path, names, column, given)
    if path.exists():
        if not path.is_file():  # reading a pipe might never end
            raise InputError(f"{given} is neither a file nor a folder; {_EXPECTED}")
        if path.suffix.lower() in (_TABLE, _SHARD):
            return _of_names(path.parent, [path.name], column, given)
        if not could_be_image(path):
            raise InputError(f"{given}: {_packed(path.suffix) or f'not an image; {_EXPECTED}'}")
        return ImageFolder(path, [""])
    matches = _matching(given)
    files = [one for one in map(Path, matches) if one.is_file()]
    if not files:
        raise InputError(f"{given}: no such file or folder; {_EXPECTED}")
    root = Path(os.path.commonpath([one.parent for one in files]))
    return _of_names(root, [os.fspath(one.relative_to(root)) for one in files], column, given)


def _of_names(root: Path, names: list[str], column: str, given: str) -> Source:
    """The source of files in a folder: images if there are any, else tables, else shards."""
    of_suffix: dict[str, list[str]] = {}
    for name in names:
        of_suffix.setdefault(PurePath(name).suffix.lower(), []).append(name)
    if any(suffix in of_suffix for suffix in SUFFIXES):
        # Without a suffix only the content tells.
        images = [one for suffix in (*SUFFIXES, "") for one in of_suffix.get(suffix, ())]
        return ImageFolder(root, sorted(images))
    tables, shards = of_suffix.get(_TABLE), of_suffix.get(_SHARD)
    if tables and shards:
        raise InputError(
            f"{given} holds Parquet files and .tar shards; name one kind, such as '{given}/*.tar'"
        )
    if tables:
        return Tables(root, tables, column or usual_column(root / tables[0]))
    if shards:
        return Shards(root, shards)
    if unnamed := of_suffix.get(""):
        return ImageFolder(root, unnamed)
    packed = next((words for suffix in of_suffix if (words := _packed(suffix))), "")
    raise InputError(f"{given}: {packed or f'nothing to read in it; {_EXPECTED}'}")


def _matching(pattern: str) -> list[str]:
    if not glob.has_magic(pattern):
        return []
    # Not `Path.glob`, whose patterns are relative.
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207


def _packed(suffix: str) -> str:
    if suffix.lower() not in _PACKED:
        return ""
    return f"{suffix} cannot be read from within; expected shards as plain .tar"


def _len_of(folder: Path) -> int:
    """How much of a path below a folder is the folder."""
    text = os.fspath(folder)
    return 0 if text == "." else len(text.rstrip(os.sep)) + 1
