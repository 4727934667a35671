"""Folders that are filled under a hidden name, and take their own name when they are complete.

A process that is killed leaves its draft; the next one that writes there removes it. A draft is
dead if nobody holds the lock of its writer, which was on this machine, since it started, and by the
same mount. Elsewhere a free lock may say nothing: such a draft must also be untouched for a day.
This module does not know what is drafted.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from limelens.serve.locks import here, lock

_PREFIX: Final = ".export-"
_NAME: Final = re.compile(rf"{re.escape(_PREFIX)}[a-z0-9_]{{8}}")
_LOCK: Final = ".writer"
_FORGOTTEN_S: Final = 24 * 3600.0


@contextlib.contextmanager
def new_draft(folder: Path) -> Iterator[Path]:
    """A new hidden folder in a folder; what is not published at the end is removed.

    Drafts of processes that were killed are removed from the folder, too.

    Raises:
        OSError: The folder cannot be written.
    """
    draft = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    try:
        with _held(draft / _LOCK):
            # The clock of the file system, which may be another machine's.
            _remove_dead(folder, draft, draft.stat().st_mtime)
            yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def publish(draft: Path, target: Path) -> None:
    """Gives a draft its name.

    Raises:
        OSError: The name is taken, or the folder cannot be written.
    """
    (draft / _LOCK).unlink(missing_ok=True)
    draft.chmod(0o755)
    draft.rename(target)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Holds the lock of a draft; whoever finds it free and `here` in it knows that we are dead."""
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with contextlib.suppress(OSError):  # there are no locks here
            lock(number, wait=True)
            # Written when the lock is held: while it is empty, it says nothing.
            os.write(number, here(os.fstat(number).st_dev))
        yield
    finally:
        os.close(number)


def _remove_dead(folder: Path, own: Path, now: float) -> None:
    for draft in folder.glob(f"{_PREFIX}*"):
        if draft != own and _NAME.fullmatch(draft.name) and draft.is_dir() and _is_dead(draft, now):
            shutil.rmtree(draft, ignore_errors=True)


def _is_dead(draft: Path, now: float) -> bool:
    with contextlib.suppress(OSError):
        number = os.open(draft / _LOCK, os.O_RDWR)
        try:
            if not lock(number, wait=False):
                return False
            place = here(os.fstat(number).st_dev)
            if place and os.read(number, len(place) + 1) == place:
                return True
        finally:
            os.close(number)
    with contextlib.suppress(OSError):  # it may vanish, or belong to somebody else
        return now - max(_times(draft)) > _FORGOTTEN_S
    return False


def _times(draft: Path) -> Iterator[float]:
    yield draft.stat().st_mtime
    for path in draft.rglob("*"):
        yield path.lstat().st_mtime
