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
    reading = _Reading(folder)
    files = [path / name for path, names in reading.folders() for name in names]
    return Found(
        tuple(sorted(files)),
        tuple(sorted(reading.unreachable, key=lambda one: one.path)),
        tuple(reading.not_followed),
    )


def names_by_folder(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """The files that `walk` finds, a folder at a time: for so many that no list can hold them.

    Yields:
        A folder, and the names of the files directly in it, sorted; the same in each walk. In the
        end what is unreachable, one at a time; the name of a folder then ends with a slash.

    Raises:
        OSError: The folder cannot be listed.
    """
    reading = _Reading(folder)
    yield from reading.folders()
    for path in sorted(one.path for one in reading.unreachable):
        yield path.parent, [f"{path.name}{os.sep if path.is_dir() else ''}"]


class _Reading:
    """One walk, and what it left out so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.unreachable: list[Skipped] = []
        self.not_followed: list[Skipped] = []
        self._links: set[Path] = set()
        self._seen = {_identity(folder.stat())}

    def folders(self) -> Iterator[tuple[Path, list[str]]]:
        yield from self._below(self._folder)
        # Links come last, so that a folder is listed under its own path if it has one.
        while self._links:
            link = min(self._links)
            self._links.remove(link)
            target = link.resolve()
            if any(one.resolve().is_relative_to(target) for one in (self._folder, link.parent)):
                reason = f"a link to {target}, which holds it"
                self.not_followed.append(Skipped(link, reason))
            elif (identity := _identity(link.stat())) in self._seen:
                reason = f"a link to {target}, which is read already"
                self.not_followed.append(Skipped(link, reason))
            else:
                self._seen.add(identity)
                yield from self._below(link)

    def _below(self, top: Path) -> Iterator[tuple[Path, list[str]]]:
        waiting = [top]
        while waiting:
            current = waiting.pop()
            names: list[str] = []
            inner: list[Path] = []
            try:
                for entry in _visible(current):
                    try:
                        # Most are files, which need no further call to the system.
                        if entry.is_file(follow_symlinks=False) or self._is_file(entry, inner):
                            names.append(entry.name)
                    except OSError as error:
                        path = current / entry.name
                        self.unreachable.append(Skipped(path, _reason(path, error)))
            except OSError as error:
                if current == self._folder:
                    raise
                reason = f"cannot be listed: {error.strerror}"
                self.unreachable.append(Skipped(current, reason))
                continue
            names.sort()
            yield current, names
            waiting += sorted(inner, reverse=True)

    def _is_file(self, entry: os.DirEntry[str], inner: list[Path]) -> bool:
        """Whether a file; notes folders and what is neither."""
        path = Path(entry.path)
        status = entry.stat()
        if stat.S_ISREG(status.st_mode):
            return True
        if not stat.S_ISDIR(status.st_mode):
            self.not_followed.append(Skipped(path, "neither a file nor a folder"))
        elif entry.is_symlink():
            self._links.add(path)
        elif _identity(status) not in self._seen:
            self._seen.add(_identity(status))
            inner.append(path)
        return False


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
