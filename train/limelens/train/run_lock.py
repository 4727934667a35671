"""One writer at a time for the folder of a run.

The lock is the operating system's, on a file that stays: it is free again however its holder ended.
The file says who held it last. This module does not know what is written.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import lock_descriptor

from limelens.serve.errors import LimelensError

FILE: Final = ".lock"
_PATIENCE_S: Final = 2.0
"""How long a writer waits: whoever looks for a writer holds the lock for a moment, too."""
_POLL_S: Final = 0.05
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_MOST_BYTES: Final = 1000

_log = logging.getLogger(__name__)


class RunInUseError(LimelensError):
    """Another process writes into the folder of a run; the message says which."""


@contextmanager
def writing(run: Path, command: str, otherwise: str = "") -> Iterator[None]:
    """Keeps other writers out of a run's folder; a new folder that stays empty is removed.

    On a file system without locks it logs a warning, and other writers are not kept out.

    Args:
        run: It is made if it does not exist.
        command: What writes, for the message that others get, such as `limelens train`.
        otherwise: What else to do if another process writes there, for the message.

    Raises:
        RunInUseError: Another process writes there.
        OSError: The folder cannot be written.
    """
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    number, is_locked = _opened(run, otherwise)
    try:
        os.ftruncate(number, 0)
        os.write(number, f"{command} (process {os.getpid()} on {socket.gethostname()})".encode())
        yield
    finally:
        if is_locked and made:
            _remove_empty(made)
        os.close(number)


def check_free(run: Path, otherwise: str = "") -> None:
    """Refuses a run's folder that another process writes into; the arguments are as above.

    Raises:
        RunInUseError: One does.
    """
    if (holder := writer_of(run)) is not None:
        raise _in_use(run, holder, otherwise)


def writer_of(run: Path) -> str | None:
    """Who writes into a run's folder, in words; None if nobody does, or if nobody can know.

    A folder that is read-only for this process, or not there, can be asked about as well.
    """
    with suppress(OSError):  # no writer was ever here, or there are no locks
        number = os.open(run / FILE, os.O_RDONLY)
        try:
            if not lock_descriptor(number, blocking=False):
                return _holder(number)
        finally:
            os.close(number)
    return None


def _opened(run: Path, otherwise: str) -> tuple[int, bool]:
    """The open file of a run's lock, and whether it is locked: there may be no locks."""
    began = time.monotonic()
    while True:
        run.mkdir(parents=True, exist_ok=True)
        number = os.open(run / FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if lock_descriptor(number, blocking=False):
                if os.fstat(number).st_nlink:
                    return number, True
                # Removed, with the folder, by the writer before.
            elif time.monotonic() - began > _PATIENCE_S:
                raise _in_use(run, _holder(number), otherwise)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                _log.warning(
                    "%s: its file system has no locks (%s), so nothing keeps another training out",
                    run,
                    error.strerror,
                )
                return number, False
            os.close(number)
            raise
        except RunInUseError:
            os.close(number)
            raise
        os.close(number)
        time.sleep(_POLL_S)


def _holder(number: int) -> str:
    text = b""
    with suppress(OSError):  # Windows lets nobody else read what is locked
        text = os.read(number, _MOST_BYTES)
    return text.decode(errors="replace") or "another process"


def _in_use(run: Path, holder: str, otherwise: str) -> RunInUseError:
    return RunInUseError(
        f"{run} is in use: {holder} writes into it; wait until that has ended{otherwise}"
    )


def _remove_empty(made: list[Path]) -> None:
    """Removes the folders that were made for a run, if nothing but the lock came into them."""
    with suppress(OSError):  # Windows removes no file that is open
        if [one.name for one in made[0].iterdir()] == [FILE]:
            (made[0] / FILE).unlink()
            for folder in made:
                folder.rmdir()
