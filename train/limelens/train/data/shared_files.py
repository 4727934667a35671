"""Files without a name, in memory or on disk, that the processes of a machine share.

Nothing is left behind, however the processes end, and nothing old or foreign can be mistaken for a
file: the process that makes it hands out its own open file. Knows bytes; does not know images.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from limelens.train.data.examples import DataError

Once = Callable[[Callable[[], Any]], Any]
"""Calls a function in one process of a machine and returns its result in all of them."""

_CAN_SHARE: Final = hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()


def file_in_memory(size: int) -> BinaryIO:
    """A file of zeros that takes memory as it is written; Linux only."""
    file = os.fdopen(os.memfd_create("limelens"), "r+b", buffering=0)
    file.truncate(size)
    return file


def file_on_disk(size: int, folder: Path | None) -> BinaryIO:
    """A file of zeros whose blocks are reserved.

    Args:
        size: In bytes.
        folder: Is made if it is missing; None takes the system's for temporary files.

    Raises:
        DataError: The folder cannot be written, or the disk has no place.
    """
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        file: BinaryIO = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        try:
            # Writing to a mapped file beyond a full disk would end the process without a word.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
        except OSError:
            file.close()
            raise
    except OSError as error:
        raise DataError(
            f"the decoded images need {size / 2**30:.1f} GiB in "
            f"{folder or tempfile.gettempdir()}: {error.strerror}; free some, choose another "
            "folder with --out, or a smaller --input-size"
        ) from error
    return file


def shared_files(make: Callable[[], list[BinaryIO]], once: Once) -> list[BinaryIO]:
    """Files that one process makes and the others of its machine open.

    The process that makes them must keep them open until the others have them.

    Returns:
        Empty where a system cannot share them, or does not let this process.

    Raises:
        LimelensError: They cannot be made; in every process.
    """
    own: list[BinaryIO] = []

    def made() -> list[_Place]:
        if _CAN_SHARE:
            own.extend(make())
        return [_Place.of(file) for file in own]

    places: Sequence[_Place] = once(made)
    if own:
        return own
    try:
        return [place.opened() for place in places]
    except OSError:
        return []


@contextmanager
def locked(file: BinaryIO) -> Iterator[None]:
    """Keeps other processes out, and shows what they wrote before; not threads of this one."""
    import fcntl  # not on Windows, where nothing is shared

    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


@dataclass(frozen=True)
class _Place:
    """Where another process finds a file, and how it knows the file again."""

    path: Path
    device: int
    inode: int

    @staticmethod
    def of(file: BinaryIO) -> _Place:
        found = os.fstat(file.fileno())
        return _Place(Path(f"/proc/{os.getpid()}/fd/{file.fileno()}"), found.st_dev, found.st_ino)

    def opened(self) -> BinaryIO:
        file = self.path.open("r+b", buffering=0)
        found = os.fstat(file.fileno())
        if (found.st_dev, found.st_ino) != (self.device, self.inode):
            # In a container of its own, that number is another process's.
            file.close()
            raise FileNotFoundError(self.path)
        return file
