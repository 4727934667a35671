"""Opens the record's SQLite file to write or to read, and says in words what is wrong with it.

It knows files, settings of SQLite and its errors, and nothing of events.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from limelens.serve.errors import InvalidRequestError
from limelens.serve.files import sync_folder
from limelens.watch.record.errors import (
    BusyRecordError,
    DamagedRecordError,
    DiskFullError,
    NoRecordError,
    RecordError,
)
from limelens.watch.record.schema import VERSION, migrate, supplement, version_of

FILE: Final = "events.sqlite"
OVERLAYS: Final = "overlays"
BUSY_S: Final = 5.0
"""How long to wait for another process that writes."""
_CACHE_KIB: Final = 8 * 1024
_WAL_BYTES: Final = 16 << 20
"""To what the log is cut after it was written back."""
_DAMAGED: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")


def folder_of(path: str | os.PathLike[str]) -> Path:
    """The record's folder, which may also be named by the file in it."""
    given = Path(path)
    return given.parent if given.name == FILE else given


def make_folder(folder: Path) -> None:
    """Makes the folder of a record, which nobody else may read.

    Raises:
        OSError: It cannot be made.
    """
    is_new = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / OVERLAYS).mkdir(mode=0o700, exist_ok=True)
    if is_new:
        sync_folder(folder.parent)


def open_to_write(folder: Path, *, create: bool) -> sqlite3.Connection:
    """Opens the record to write, in autocommit mode, with tables of this version.

    Args:
        folder: The record's folder.
        create: Whether to make a new record if there is none.

    Raises:
        NoRecordError: There is none.
        RecordError: It cannot be used.
        OSError: The folder cannot be made or used.
    """
    file = folder / FILE
    if create:
        make_folder(folder)
        # SQLite would make it with the rights of the umask; its log takes those of the file.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with in_words(file):
        connection = _connect(file, "rw")
        try:
            if version_of(connection) == 0:
                # Before there are tables: later it would need the whole file to be copied.
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise RecordError("its disk allows no WAL; put the record on a local disk")
            # What is committed is on the disk, also if the power fails.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            # What is removed, images of people among it, must be gone.
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            migrate(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def open_to_read(folder: Path) -> sqlite3.Connection:
    """Opens the record to read only; the caller may use it from any thread, one at a time.

    Raises:
        NoRecordError: There is none.
        RecordError: It cannot be used.
    """
    file = folder / FILE
    with in_words(file):
        connection = _connect(file, "ro")
        try:
            try:
                version = version_of(connection)
            except sqlite3.OperationalError:
                # On a disk that is read-only there can be no log, and so nothing changes.
                if _has_log(file) or os.access(folder, os.W_OK):
                    raise
                connection.close()
                connection = _connect(file, "ro", "&immutable=1")
                version = version_of(connection)
            if 0 < version < VERSION and not _may_write(file):
                supplement(connection)
            elif version < VERSION:
                connection.close()
                open_to_write(folder, create=False).close()
                connection = _connect(file, "ro")
            connection.execute("PRAGMA query_only = ON")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits what is written in the context, or nothing of it if that fails; raises as SQLite."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have ended it already.
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def in_words(file: Path) -> Iterator[None]:
    """Turns errors of SQLite into those of the record, which name the file.

    Raises:
        DamagedRecordError: The file is damaged, or no database.
        RecordError: Whatever else is wrong.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _as_record_error(error, file) from error
    except UnicodeEncodeError as error:
        raise RecordError(f"{file}: a text is not valid Unicode: {error.reason}") from error
    except RecordError as error:
        if str(error).startswith(str(file.parent)):
            raise
        raise type(error)(f"{file}: {error}") from error


@contextlib.contextmanager
def legible(folder: Path) -> Iterator[None]:
    """Turns errors of understanding what a row holds into those of the record.

    Raises:
        DamagedRecordError: The row is damaged.
    """
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError, InvalidRequestError) as error:
        raise DamagedRecordError(
            f"{folder / FILE}: the record is damaged: an event in it cannot be read ({error})"
        ) from error


def _as_record_error(error: sqlite3.Error, file: Path) -> RecordError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(_DAMAGED):
        return DamagedRecordError(
            f"{file}: the record is damaged ({error}). Move its folder away, and a new record "
            f"begins; `sqlite3 {FILE} .recover` saves what can be saved"
        )
    if name.startswith("SQLITE_BUSY"):
        return BusyRecordError(
            f"{file}: another process has been writing for {BUSY_S:g} s; try again"
        )
    if name.startswith("SQLITE_FULL"):
        return DiskFullError(f"{file.parent}: the disk is full")
    if name.startswith("SQLITE_IOERR"):
        return RecordError(f"{file}: the disk cannot be read or written ({error})")
    if name.startswith("SQLITE_READONLY"):
        return RecordError(f"{file}: cannot be written: it, or its folder, is read-only")
    if name.startswith("SQLITE_CANTOPEN"):
        return RecordError(f"{file}: cannot be opened; check the rights of it and of its folder")
    return RecordError(f"{file}: {error}")


def _connect(file: Path, mode: str, more: str = "") -> sqlite3.Connection:
    if not file.is_file():
        raise NoRecordError("there is no record; expected the folder that [record] path names")
    return sqlite3.connect(
        f"file:{quote(os.fspath(file.absolute()))}?mode={mode}{more}",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )


def identity(file: Path | int) -> tuple[int, int] | None:
    """Tells a file, by path or descriptor, from another one of its name; None if there is none."""
    try:
        found = file.stat() if isinstance(file, Path) else os.fstat(file)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _may_write(file: Path) -> bool:
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)


def _has_log(file: Path) -> bool:
    log = file.with_name(f"{file.name}-wal")
    return log.exists() and log.stat().st_size > 0
