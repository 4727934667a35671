"""What was fetched, on disk, so that a run that was killed goes on where it was.

Images lie under the digest of their content; a journal has a line for each URL that is done. A
line that was cut off, or one whose image is not there whole, counts for nothing. It knows
nothing of tables or splits.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock, Timeout

from limelens.train.data.examples import DataError
from limelens.train.data.near_duplicates import PerceptualHash

GRID: Final = 4
"""Fields along each side of an image whose colours the journal keeps."""


@dataclass(frozen=True)
class FetchedImage:
    """An image that is there.

    Args:
        digest: SHA-256 of the JPEG, hexadecimal.
        size_bytes: Of the JPEG.
        hash: Of its pixels, with frequencies and a grid of `GRID`.
    """

    digest: str
    size_bytes: int
    hash: PerceptualHash


@dataclass(frozen=True)
class Failure:
    """A URL that gave no image.

    Args:
        reason: Why, in words.
        transient: Whether the next run should ask again.
    """

    reason: str
    transient: bool


class Fetched:
    """The folder of what was fetched; see `open_fetched`."""

    def __init__(self, folder: Path, done: dict[tuple[str, str], FetchedImage | Failure]) -> None:
        self._folder = folder
        self._done = done
        self._journal = FileIO(folder / "journal.jsonl", "a")

    def get(self, url: str, made_by: str) -> FetchedImage | Failure | None:
        """What a URL gave when it was fetched in this way; None if it was not."""
        found = self._done.get((url, made_by))
        return found if not isinstance(found, FetchedImage) or self._is_whole(found) else None

    def store(self, jpeg: bytes, hash: PerceptualHash) -> FetchedImage:
        """Writes an image whole or not at all; may be called from any thread."""
        image = FetchedImage(hashlib.sha256(jpeg).hexdigest(), len(jpeg), hash)
        if not self._is_whole(image):
            path = self.path(image)
            beside = path.with_suffix(f".{threading.get_ident()}.tmp")
            beside.write_bytes(jpeg)
            beside.replace(path)
        return image

    def record(self, url: str, made_by: str, outcome: FetchedImage | Failure) -> None:
        """Remembers what a URL gave; a failure that may pass is not remembered."""
        if isinstance(outcome, Failure) and outcome.transient:
            return
        self._done[url, made_by] = outcome
        line = json.dumps({"url": url, "made_by": made_by, **_to_json(outcome)})
        self._journal.write(line.encode() + b"\n")

    def path(self, image: FetchedImage) -> Path:
        """Where an image lies."""
        return self._folder / "pictures" / f"{image.digest}.jpg"

    def close(self) -> None:
        """Closes the journal."""
        self._journal.close()

    def _is_whole(self, image: FetchedImage) -> bool:
        try:
            return self.path(image).stat().st_size == image.size_bytes
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
    images = folder / "pictures"
    images.mkdir(parents=True, exist_ok=True)
    try:
        # The system lets go of it when the process dies, however it dies.
        lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout:
        raise DataError(f"another ingest writes to {folder.parent}; wait for it to end") from None
    with lock:
        for left_behind in images.glob("*.tmp"):
            left_behind.unlink()
        fetched = Fetched(folder, _read_journal(folder / "journal.jsonl"))
        try:
            yield fetched
        finally:
            fetched.close()


def _read_journal(path: Path) -> dict[tuple[str, str], FetchedImage | Failure]:
    if not path.exists():
        return {}
    done: dict[tuple[str, str], FetchedImage | Failure] = {}
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


def _to_json(outcome: FetchedImage | Failure) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        return {"failure": outcome.reason}
    compared = {
        "gradients": outcome.hash.gradients,
        "frequencies": outcome.hash.frequencies,
        "colours": outcome.hash.colours.tobytes().hex(),
    }
    return {"picture": outcome.digest, "size_bytes": outcome.size_bytes, "fingerprint": compared}


def _from_json(entry: Mapping[str, Any]) -> FetchedImage | Failure:
    if "failure" in entry:
        return Failure(entry["failure"], transient=False)
    compared = entry["fingerprint"]
    colours = np.frombuffer(bytes.fromhex(compared["colours"]), np.uint8).reshape(GRID * GRID, 3)
    return FetchedImage(
        entry["picture"],
        entry["size_bytes"],
        PerceptualHash(compared["gradients"], colours, compared["frequencies"]),
    )
