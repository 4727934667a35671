"""Options that name what a command writes: an output that cannot be written is known at once.

Each check is the callback of an option, and returns the path that it was given. It writes nothing
itself: a disk may still be full when the work is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, TypeVar

import typer

from limelens.serve.errors import LimelensError
from limelens.serve.image.writing import WRITTEN_FORMATS

IMAGE: Final = "PNG|JPG|WEBP"
"""The metavar of an image to write."""

_P = TypeVar("_P", bound="Path | None")


def writable_file(path: _P) -> _P:
    """A file to write, in a folder that is there.

    Raises:
        LimelensError: It cannot be written.
    """
    if path is not None and _is_in_a_folder(path):
        folder = _target(path).parent
        if not folder.exists():
            shown = folder if path.is_symlink() else path.parent
            raise LimelensError(f"{path}: cannot be written: {shown} is no folder")
        _check_folder(path, folder)
    return path


def writable_file_anywhere(path: _P) -> _P:
    """A file to write, in a folder that the command makes if it is not there.

    Raises:
        LimelensError: It cannot be written.
    """
    if path is not None and _is_in_a_folder(path):
        _check_folder(path, _first_there(_target(path).parent))
    return path


def writable_folder(path: _P) -> _P:
    """A folder to write into, which the command makes if it is not there.

    Raises:
        LimelensError: It is a file, or it cannot be written.
    """
    if path is not None:
        _check_folder(path, _first_there(_target(path)))
    return path


def image_file(
    check: Callable[[Path | None], Path | None] = writable_file,
    suffixes: Collection[str] = tuple(WRITTEN_FORMATS),
) -> Callable[[Path | None], Path | None]:
    """Makes the check of an image to write, whose suffix says its format; without one it is a PNG.

    Args:
        check: What else must be so.
        suffixes: Those that can be written.

    Returns:
        A check, which raises `typer.BadParameter` for another suffix.
    """

    def checked(path: Path | None) -> Path | None:
        if path is not None and path.suffix and path.suffix.lower() not in suffixes:
            *others, last = suffixes
            expected = f"{', '.join(others)} or {last}" if others else last
            raise typer.BadParameter(
                f"{path} has the suffix {path.suffix}; expected {expected}, which says its format"
            )
        return check(path)

    return checked


def _target(path: Path) -> Path:
    """What is behind any links, which `limelens.serve.files` writes."""
    return Path(os.path.realpath(path))


def _first_there(folder: Path) -> Path:
    return next(one for one in (folder, *folder.parents) if one.exists())


def _is_in_a_folder(path: Path) -> bool:
    """Whether a new file is to be made, rather than a device or a pipe written."""
    if path.is_dir():
        raise LimelensError(f"{path} is a folder; expected the name of a file to write")
    return path.is_file() or not path.exists()


def _check_folder(path: Path, folder: Path) -> None:
    if not folder.is_dir():
        found = path if folder == _target(path) else folder
        raise LimelensError(f"{found} is a file; expected a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LimelensError(f"{path}: cannot be written: {folder} is read-only for you")
