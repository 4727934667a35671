"""The layout of a model repository: NAME/VERSION/model.onnx, as in Triton.

Each entry is read on its own, so that a fault of one does not affect the others. It reads names and
attributes, and opens no bundle.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from limelens.serve.errors import BundleError
from limelens.serve.wording import listed

FILE_NAME: Final = "model.onnx"
LAYOUT: Final = f"expected models as <name>/<version>/{FILE_NAME}, such as `limelens export` writes"
WARM_UP_FOLDER: Final = "warmup"
"""In a model's folder: samples that Triton runs before the first request."""
_MAX_VERSION: Final = 2**31 - 1
_OF_SYSTEMS: Final = frozenset(
    {"$recycle.bin", "@eadir", "__macosx", "lost+found", "system volume information"}
)
"""Folders that operating systems and network disks create, in lower case."""
_GONE: Final = (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True)
class Entry:
    """One entry of a model repository.

    Args:
        problem: What is wrong with the entry as a whole; empty if nothing is.
        is_readable: Whether `versions` is complete.
    """

    versions: Mapping[int, Path] = field(default_factory=dict)
    problem: str = ""
    is_readable: bool = True


def look_into(folder: Path) -> dict[str, Entry]:
    """Finds models, and entries that may have been meant as models, by name.

    Raises:
        BundleError: The folder itself is missing or cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError as error:
        what = "no such folder" if error.errno in _GONE else f"cannot be read: {error.strerror}"
        raise BundleError(f"{folder}: {what}; {LAYOUT}") from error
    found: dict[str, Entry] = {}
    for name in names:
        if _is_left_out(name):
            continue
        text = _as_text(name)
        if text != name:
            entry: Entry | None = Entry(
                problem=f"{_as_text(str(folder))}/{text}: the name is no UTF-8; rename it",
                is_readable=False,
            )
        else:
            entry = look_at(folder / name)
        if entry is not None:
            found[text] = entry
    return found


def look_at(model: Path) -> Entry | None:
    """Reads one entry; None if it cannot be meant as a model."""
    try:
        is_folder = stat.S_ISDIR(model.stat().st_mode)
        names = sorted(os.listdir(model)) if is_folder else []  # noqa: PTH208
    except OSError as error:
        if error.errno in _GONE and not model.is_symlink():  # removed or renamed since
            return None
        return Entry(
            problem=f"{model}: cannot be read: {error.strerror}; {LAYOUT}", is_readable=False
        )
    if not is_folder:
        if model.suffix.lower() != ".onnx":
            return None
        target = model.with_suffix("") / "1" / FILE_NAME
        return Entry(problem=f"{model}: a file among the models; expected {target}")
    versions: dict[int, Path] = {}
    ignored: list[str] = []
    for name in names:
        if _is_left_out(name) or name == WARM_UP_FOLDER:
            continue
        is_folder = _may_be_folder(model / name)
        # As in Triton, other folders and numbers that begin with 0 are no versions.
        if (version := _version(name)) and is_folder:
            versions[version] = model / name / FILE_NAME
        elif is_folder or _is_number(name):
            ignored.append(_as_text(name))
    problem = ""
    if ignored:
        problem = (
            f"{model}: ignored: {listed(ignored, ', ')}; a version is a folder whose name is a "
            f"number, without zeros in front, such as {model / '1' / FILE_NAME}"
        )
    elif names and not versions:
        problem = f"{model}: no version in it; expected such as {model / '1' / FILE_NAME}"
    return Entry(versions, problem)


def bundle_in(folder: Path) -> Path:
    """The file of the bundle in a version's folder, which may be missing.

    Raises:
        BundleError: It is a model's folder; the message names the newest of its versions.
    """
    file = folder / FILE_NAME
    if not file.exists() and (entry := look_at(folder)) is not None and entry.versions:
        newest = entry.versions[max(entry.versions)].parent
        raise BundleError(
            f"{folder}: a model's folder; expected one of its versions, such as {newest}"
        )
    return file


def version_of(path: Path) -> int:
    """The version of a bundle by its folder's name; 0 if it is not in a model repository."""
    return _version(path.parent.name)


def is_model_name(name: str) -> bool:
    """Whether a name, such as one that a bundle gives itself, can be a model's folder."""
    return bool(
        name
        and not name.startswith(".")
        and name.isprintable()  # surrogates are not
        and not {"/", "\\"} & {*name}
    )


def _version(name: str) -> int:
    """A version by its folder's name; 0 if it is none."""
    return number if _is_number(name) and (number := int(name)) <= _MAX_VERSION else 0


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and name[0] != "0"


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _may_be_folder(path: Path) -> bool:
    """True also for unreadable files and broken links: loading reports what is wrong."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        return error.errno not in _GONE or path.is_symlink()


def _as_text(name: str) -> str:
    """A name as text; bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
