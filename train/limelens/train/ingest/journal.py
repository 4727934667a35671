"""What was fetched, on disk, so that a run that was killed goes on where it was.

Pictures lie under the digest of their content; a journal has a line for each URL that is done. A
line that was cut off, or one whose picture is not there whole, counts for nothing. It knows
nothing of tables or splits.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from limelens.train.data.examples import DataError
from limelens.train.data.fingerprints import Fingerprint


@dataclass(frozen=True)
class Picture:
    """A picture that is there.

    Args:
        digest: SHA-256 of the JPEG, hexadecimal.
        size_bytes: Of the JPEG.
        fingerprint: Of its pixels.
    """

    digest: str
    size_bytes: int
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Failure:
    """A URL that gave no picture.

    Args:
        reason: Why, in words.
        transient: Whether the next run should ask again.
    """

    reason: str
    transient: bool


class Fetched:
    """The folder of what was fetched; see `open_fetched`."""

    def __init__(self, folder: Path, done: dict[tuple[str, str], Picture | Failure]) -> None:
        self._folder = folder
        self._done = done
        self._journal = FileIO(folder / "journal.jsonl", "a")

    def get(self, url: str, made_by: str) -> Picture | Failure | None:
        """What a URL gave when it was fetched in this way; None if it was not."""
        found = self._done.get((url, made_by))
        return found if not isinstance(found, Picture) or self._is_whole(found) else None

    def store(self, jpeg: bytes, fingerprint: Fingerprint) -> Picture:
        """Writes a picture whole or not at all; may be called from any thread."""
        picture = Picture(hashlib.sha256(jpeg).hexdigest(), len(jpeg), fingerprint)
        if not self._is_whole(picture):
            path = self.path(picture)
            beside = path.with_suffix(f".{threading.get_ident()}.tmp")
            beside.write_bytes(jpeg)
            beside.replace(path)
        return picture

    def record(self, url: str, made_by: str, outcome: Picture | Failure) -> None:
        """Remembers what a URL gave; a failure that may pass is not remembered."""
        if isinstance(outcome, Failure) and outcome.transient:
            return
        self._done[url, made_by] = outcome
        line = json.dumps({"url": url, "made_by": made_by, **_to_json(outcome)})
        self._journal.write(line.encode() + b"\n")

    def path(self, picture: Picture) -> Path:
        """Where a picture lies."""
        return self._folder / "pictures" / f"{picture.digest}.jpg"

    def close(self) -> None:
        """Closes the journal."""
        self._journal.close()

    def _is_whole(self, picture: Picture) -> bool:
        try:
            return self.path(picture).stat().st_size == picture.size_bytes
        except FileNotFoundError:
            return False


@contextmanager
def open_fetched(folder: Path) -> Iterator[Fetched]:
    """Opens the folder of what was fetched, for one process at a time.

    Args:
        folder: Made where it is missing.

    Raises:
        DataError: Another process has it open.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    try:
        # The system lets go of it when the process dies, however it dies.
        lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout:
        raise DataError(f"another ingest writes to {folder.parent}; wait for it to end") from None
    with lock:
        for left_behind in pictures.glob("*.tmp"):
            left_behind.unlink()
        fetched = Fetched(folder, _read_journal(folder / "journal.jsonl"))
        try:
            yield fetched
        finally:
            fetched.close()


def _read_journal(path: Path) -> dict[tuple[str, str], Picture | Failure]:
    if not path.exists():
        return {}
    done: dict[tuple[str, str], Picture | Failure] = {}
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        # The next line must not be joined to one that was cut off.
        with path.open("ab") as file:
            file.write(b"\n")
    for line in content.splitlines():
        try:
            entry = json.loads(line)
            done[entry["url"], entry["made_by"]] = _from_json(entry)
        except (ValueError, KeyError, TypeError):
            continue
    return done


def _to_json(outcome: Picture | Failure) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        return {"failure": outcome.reason}
    prints = {**asdict(outcome.fingerprint), "colours": outcome.fingerprint.colours.hex()}
    return {"picture": outcome.digest, "size_bytes": outcome.size_bytes, "fingerprint": prints}


def _from_json(entry: Mapping[str, Any]) -> Picture | Failure:
    if "failure" in entry:
        return Failure(entry["failure"], transient=False)
    prints = entry["fingerprint"]
    return Picture(
        entry["picture"],
        entry["size_bytes"],
        Fingerprint(prints["gradients"], prints["frequencies"], bytes.fromhex(prints["colours"])),
    )
