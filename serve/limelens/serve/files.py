"""Writes files whole or not at all, whatever happens meanwhile.

The bytes go into a temporary file, are synced to disk, and the file is renamed: a full disk, a
crash or a kill leaves the old file. The temporary file of a process that was killed is removed by
the next process that writes into the folder, by the rules of `drafts`. This module does not know
what is written.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from limelens.serve.locks import here, lock

_NEW_MODE: Final = 0o666
_PART: Final = re.compile(r"\.limelens-(?:(?:[0-9a-f]{8})?-)?[0-9a-f]{12}\.part")
_FORGOTTEN_S: Final = 24 * 3600.0


@contextlib.contextmanager
def writing_whole(path: str | os.PathLike[str], *, mode: int | None = None) -> Iterator[BinaryIO]:
    """Opens a file that takes its name when the context ends without an error.

    A link stays a link, and its target is written. An existing file keeps its rights and, if
    possible, its owner. A pipe or a terminal is written directly.

    Args:
        path: The file; its folder must exist.
        mode: Rights of a new file; None means the umask's.

    Raises:
        OSError: The file cannot be written; `filename` is the given path.
    """
    try:
        target, before = _target(Path(path))
        if before is not None and not stat.S_ISREG(before.st_mode):
            with target.open("wb") as file:
                yield file
            return
        beside, number = _new_part(target.parent, mode if mode is not None else _NEW_MODE)
        try:
            _remove_dead_parts(target.parent)
            with _kept_locked(number):
                with os.fdopen(number, "wb") as file:
                    if before is not None:
                        _copy_rights(file, before)
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        sync_folder(target.parent)
    except OSError as error:
        if isinstance(error.errno, int) and type(error) in _PLAIN:
            raise type(error)(error.errno, os.strerror(error.errno), os.fspath(path)) from error
        raise


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Gives errors of the system the file that they are about, where a library leaves it out."""
    try:
        yield
    except OSError as error:
        if error.filename is None and isinstance(error.errno, int):
            raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error
        raise


def write_whole(
    path: str | os.PathLike[str], data: bytes | str, *, mode: int | None = None
) -> None:
    """Writes bytes, or text as UTF-8, whole; see `writing_whole`.

    In text, undecodable bytes of file names are written with backslashes.
    """
    if isinstance(data, str):
        data = data.encode(errors="backslashreplace")
    with writing_whole(path, mode=mode) as file:
        file.write(data)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keeps other processes out that change a file of a folder by reading and writing it whole."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def sync_folder(folder: Path) -> None:
    """Makes the names of new files survive a loss of power; some systems cannot open folders."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


_PLAIN: Final = (
    OSError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError,
)  # fmt: skip
"""Classes that the system raises; libraries' subclasses have arguments of their own."""


def _new_part(folder: Path, rights: int) -> tuple[Path, int]:
    """A new temporary file in a folder, and its descriptor, locked where there are locks."""
    while True:
        # Not named after the target, whose name may be as long as a name can be.
        path = folder / f".limelens-{_place(folder)}-{secrets.token_hex(6)}.part"
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, rights)
        try:
            lock(number, wait=True)
        except OSError:
            return path, number
        if os.fstat(number).st_nlink:
            return path, number
        os.close(number)  # another process took it for a dead one before it was locked


@contextlib.contextmanager
def _kept_locked(number: int) -> Iterator[None]:
    """Keeps the lock of a file beyond its closing; Windows has no locks, and renames no open file.

    Until it is renamed, other processes would take it for one whose writer is gone.
    """
    second = None if os.name == "nt" else os.dup(number)
    try:
        yield
    finally:
        if second is not None:
            os.close(second)


@functools.lru_cache(maxsize=256)
def _remove_dead_parts(folder: Path) -> None:
    """Removes temporary files whose writers are gone, once for each process and folder."""
    with contextlib.suppress(OSError):
        place = _place(folder)
        for path in [folder / name for name in os.listdir(folder) if _PART.fullmatch(name)]:  # noqa: PTH208
            with contextlib.suppress(OSError):  # it is gone, or somebody else's
                _remove_if_dead(path, is_here=bool(place) and f"-{place}-" in path.name)


def _remove_if_dead(path: Path, *, is_here: bool) -> None:
    """Removes a temporary file if nobody has its lock, or where that says nothing, if it is old."""
    number = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        try:
            if not lock(number, wait=False):
                return
        except OSError:
            is_here = False
        if is_here or time.time() - os.fstat(number).st_mtime > _FORGOTTEN_S:
            path.unlink()  # while it is locked: its writer may be about to lock it
    finally:
        os.close(number)


def _place(folder: Path) -> str:
    """What is short for this start of this machine and the folder's mount; empty if unknown."""
    place = here(folder.stat().st_dev)
    return hashlib.blake2s(place, digest_size=4).hexdigest() if place else ""


def _target(path: Path) -> tuple[Path, os.stat_result | None]:
    """The file behind any links, and its current state; None if it does not exist."""
    target = Path(os.path.realpath(path))
    try:
        found = target.stat()
    except FileNotFoundError:
        return target, None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    return target, found


def _copy_rights(file: BinaryIO, before: os.stat_result) -> None:
    if hasattr(os, "fchown"):
        with contextlib.suppress(OSError):  # only root, or the owner of both, may
            os.fchown(file.fileno(), before.st_uid, before.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
