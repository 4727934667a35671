"""Finds out what an input is: a folder of images, tables or shards, one file, or a pattern."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Final

from limelens.bulk.sources.folder import ImageFolder, Names
from limelens.bulk.sources.item import InputError
from limelens.bulk.sources.shards import Shards
from limelens.bulk.sources.source import Source
from limelens.bulk.sources.table import Tables, usual_column
from limelens.serve.folders import could_be_image, names_by_folder
from limelens.serve.image import SUFFIXES
from limelens.serve.wording import listed

_TABLE: Final = ".parquet"
_SHARD: Final = ".tar"
_PACKED: Final = (".tgz", ".gz", ".zst", ".bz2", ".xz")
_AT_ONCE: Final = 10_000
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
        return _of_names(path, _names_in(path), column, given)
    if path.exists():
        if not path.is_file():  # reading a pipe might never end
            raise InputError(f"{given} is neither a file nor a folder; {_EXPECTED}")
        if path.suffix.lower() in (_TABLE, _SHARD):
            source = _of_names(path.parent, [[path.name]], column, given)
            return replace(source, is_one_file=True)
        if not could_be_image(path):
            raise InputError(f"{given}: {_packed(path.suffix) or f'not an image; {_EXPECTED}'}")
        return ImageFolder(path, [""])
    matches = _matching(given)
    files = [one for one in map(Path, matches) if one.is_file()]
    if not files:
        raise InputError(f"{given}: no such file or folder; {_EXPECTED}")
    root = Path(os.path.commonpath([one.parent for one in files]))
    names = [os.fspath(one.relative_to(root)) for one in files]
    return _of_names(root, [names], column, given)


def _names_in(folder: Path) -> Iterator[list[str]]:
    """Paths in a folder, some thousand at a time, each time of one folder."""
    for inner, names in names_by_folder(folder):
        place = "" if inner == folder else f"{inner.relative_to(folder)}{os.sep}"
        for first in range(0, len(names), _AT_ONCE):
            yield [place + name for name in names[first : first + _AT_ONCE]]


def _of_names(root: Path, folders: Iterable[list[str]], column: str, given: str) -> Source:
    """The source of files in a folder: images if there are any, else tables, else shards."""
    suffixes: set[str] = set()
    images, tables, shards = Names(), list[str](), list[str]()
    for names in folders:
        of_suffix: dict[str, list[str]] = {}
        for name in names:
            of_suffix.setdefault(_suffix(name), []).append(name)
        suffixes.update(of_suffix)
        # Without a suffix only the content tells.
        images.add(sorted(chain.from_iterable(of_suffix.get(one, ()) for one in (*SUFFIXES, ""))))
        tables += of_suffix.get(_TABLE, ())
        shards += of_suffix.get(_SHARD, ())
    if not suffixes.isdisjoint(SUFFIXES):
        return ImageFolder(root, images)
    if (tables or shards) and (unlisted := [name for name in images if name.endswith(os.sep)]):
        raise InputError(f"{given}: {listed(unlisted, ', ', most=3)} cannot be listed")
    if tables and shards:
        raise InputError(
            f"{given} holds Parquet files and .tar shards; name one kind, such as '{given}/*.tar'"
        )
    if tables:
        return Tables(root, tables, column or usual_column(root / tables[0]))
    if shards:
        return Shards(root, shards)
    if images:
        return ImageFolder(root, images)
    packed = next((words for suffix in sorted(suffixes) if (words := _packed(suffix))), "")
    raise InputError(f"{given}: {packed or f'nothing to read in it; {_EXPECTED}'}")


def _suffix(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  pathlib takes ten times as long
    return "" if suffix == "." else suffix


def _matching(pattern: str) -> list[str]:
    if not glob.has_magic(pattern):
        return []
    # Not `Path.glob`, whose patterns are relative.
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207


def _packed(suffix: str) -> str:
    if suffix.lower() not in _PACKED:
        return ""
    return f"{suffix} cannot be read from within; expected shards as plain .tar"
