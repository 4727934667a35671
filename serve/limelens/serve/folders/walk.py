"""Walks through a folder: its files, and what was left out with the reason.

Skips hidden files, those of operating systems and of `limelens bulk`. Follows links to folders,
each folder once. Reads no file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limelens.serve.image import SUFFIXES

_NOT_OURS: Final = (
    "#recycle", "$recycle.bin", "@eadir", "__macosx", "desktop.ini", "ehthumbs.db", "icon\r",
    "lost+found", "system volume information", "thumbs.db", "_limelens",
)  # fmt: skip
"""Files and folders of Windows, macOS, network disks and bulk outputs, in lower case."""


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was left out, and why, in words."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Args:
        files: Every file in it and below, sorted; paths begin with the folder's own.
        unreachable: Broken links, and folders that cannot be listed.
        not_followed: Links to folders that are read anyway, and entries that are neither file nor
            folder.
    """

    files: tuple[Path, ...]
    unreachable: tuple[Skipped, ...]
    not_followed: tuple[Skipped, ...]

    @property
    def images(self) -> tuple[Path, ...]:
        """The files that are images by their names."""
        return tuple(path for path in self.files if could_be_image(path))

    @property
    def not_images(self) -> tuple[Skipped, ...]:
        """The files that are no images by their names."""
        return tuple(
            Skipped(path, f"{path.suffix} is not a supported image format")
            for path in self.files
            if not could_be_image(path)
        )

    @property
    def others(self) -> tuple[Skipped, ...]:
        """Everything that was left out."""
        return (*self.not_images, *self.unreachable, *self.not_followed)


def walk(folder: Path) -> Found:
    """All files of a folder and of the folders in it.

    A link to a folder is followed unless that folder is read anyway or holds the link itself, so
    that every folder is read once and a loop of links ends.

    Raises:
        OSError: The folder cannot be listed.
    """
    files: list[Path] = []
    unreachable: list[Skipped] = []
    not_followed: list[Skipped] = []
    links: set[Path] = set()
    seen = {_identity(folder.stat())}

    def read(top: Path) -> None:
        waiting = [top]
        while waiting:
            current = waiting.pop()
            try:
                entries = list(_visible(current))
            except OSError as error:
                if current == folder:
                    raise
                unreachable.append(Skipped(current, f"cannot be listed: {error.strerror}"))
                continue
            for entry in entries:
                path = current / entry.name
                try:
                    status = path.stat()
                except OSError as error:
                    unreachable.append(Skipped(path, _reason(path, error)))
                    continue
                if stat.S_ISREG(status.st_mode):
                    files.append(path)
                elif not stat.S_ISDIR(status.st_mode):
                    not_followed.append(Skipped(path, "neither a file nor a folder"))
                elif entry.is_symlink():
                    links.add(path)
                elif _identity(status) not in seen:
                    seen.add(_identity(status))
                    waiting.append(path)

    read(folder)
    # Links come last, so that a folder is listed under its own path if it has one.
    while links:
        link = min(links)
        links.remove(link)
        target = link.resolve()
        if folder.resolve().is_relative_to(target) or link.parent.resolve().is_relative_to(target):
            not_followed.append(Skipped(link, f"a link to {target}, which holds it"))
        elif (identity := _identity(link.stat())) in seen:
            not_followed.append(Skipped(link, f"a link to {target}, which is read already"))
        else:
            seen.add(identity)
            read(link)
    return Found(
        tuple(sorted(files)),
        tuple(sorted(unreachable, key=lambda one: one.path)),
        tuple(not_followed),
    )


def find_images(path: Path) -> tuple[Path, ...]:
    """The images of a folder by their names, or the given file itself.

    Raises:
        OSError: The folder cannot be listed.
    """
    return walk(path).images if path.is_dir() else (path,)


def subfolders(folder: Path) -> tuple[Path, ...]:
    """The folders directly in a folder, linked ones included, by name.

    Raises:
        OSError: The folder cannot be listed.
    """
    # Not `entry.is_dir()`, which raises if links form a loop.
    paths = (folder / entry.name for entry in _visible(folder))
    return tuple(sorted(path for path in paths if path.is_dir()))


def could_be_image(path: Path) -> bool:
    """Whether a file's name may be that of an image; without a suffix only the content tells."""
    return not path.suffix or path.suffix.lower() in SUFFIXES


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in _NOT_OURS:
                yield entry


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _reason(path: Path, error: OSError) -> str:
    if not path.is_symlink():
        return str(error.strerror)
    return f"a link to {path.readlink()}, which cannot be reached ({error.strerror})"
