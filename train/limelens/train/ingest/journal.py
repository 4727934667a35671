"""Keeps fetched images on disk, so that a killed run can resume.

Images are stored under the digest of their content; a journal has a line for each URL that is
done. A truncated line, or one whose image is incomplete, is ignored. Does not know tables or
splits.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
    """A stored image.

    Args:
        digest: SHA-256 of the JPEG, hexadecimal.
        hash: With frequencies and a grid of `GRID`.
    """

    digest: str
    size_bytes: int
    hash: PerceptualHash


@dataclass(frozen=True)
class Failure:
    """A URL that gave no image, why, and whether the next run should try again."""

    reason: str
    transient: bool = False


_Key = tuple[str, str]
_Result = FetchedImage | Failure


class Fetched:
    """The folder of fetched images; see `open_fetched`."""

    def __init__(self, folder: Path, done: dict[_Key, _Result], journal: FileIO) -> None:
        self._folder = folder
        self._done = done
        self._journal = journal

    def get(self, url: str, made_by: str) -> _Result | None:
        """The result of a URL fetched with these settings; None if there is none."""
        found = self._done.get((url, made_by))
        return found if not isinstance(found, FetchedImage) or self._is_whole(found) else None

    def store(self, jpeg: bytes, hash: PerceptualHash) -> FetchedImage:
        """Writes an image completely or not at all; may be called from any thread."""
        image = FetchedImage(hashlib.sha256(jpeg).hexdigest(), len(jpeg), hash)
        if not self._is_whole(image):
            path = self.path(image)
            beside = path.with_suffix(f".{threading.get_ident()}.tmp")
            beside.write_bytes(jpeg)
            beside.replace(path)
        return image

    def record(self, url: str, made_by: str, result: _Result) -> None:
        """Writes the result of a URL to the journal, unless it is a transient failure."""
        if isinstance(result, Failure) and result.transient:
            return
        self._done[url, made_by] = result
        line = json.dumps({"url": url, "made_by": made_by, **_to_json(result)})
        self._journal.write(line.encode() + b"\n")

    def path(self, image: FetchedImage) -> Path:
        """The file of an image."""
        return self._folder / "pictures" / f"{image.digest}.jpg"

    def _is_whole(self, image: FetchedImage) -> bool:
        try:
            return self.path(image).stat().st_size == image.size_bytes
        except FileNotFoundError:
            return False


@contextmanager
def open_fetched(folder: Path) -> Iterator[Fetched]:
    """Opens or creates the folder of fetched images, for one process at a time.

    Raises:
        DataError: Another process has it open.
    """
    images = folder / "pictures"
    images.mkdir(parents=True, exist_ok=True)
    try:
        # The system releases it however the process ends.
        lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"another ingest is writing to {folder.parent}; wait for it to end"
        ) from None
    with lock:
        for left_behind in images.glob("*.tmp"):
            left_behind.unlink()
        done = _read_journal(folder / "journal.jsonl")
        with FileIO(folder / "journal.jsonl", "a") as journal:
            yield Fetched(folder, done, journal)


def _read_journal(path: Path) -> dict[_Key, _Result]:
    done: dict[_Key, _Result] = {}
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        # The next line must not be joined to a truncated one.
        with path.open("ab") as file:
            file.write(b"\n")
    for line in content.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            done[entry["url"], entry["made_by"]] = _from_json(entry)
    return done


def _to_json(result: _Result) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"failure": result.reason}
    compared = {
        "gradients": result.hash.gradients,
        "frequencies": result.hash.frequencies,
        "colours": result.hash.colours.tobytes().hex(),
    }
    return {"picture": result.digest, "size_bytes": result.size_bytes, "fingerprint": compared}


def _from_json(entry: Mapping[str, Any]) -> _Result:
    if "failure" in entry:
        return Failure(entry["failure"])
    compared = entry["fingerprint"]
    colours = np.frombuffer(bytes.fromhex(compared["colours"]), np.uint8).reshape(GRID * GRID, 3)
    return FetchedImage(
        entry["picture"],
        entry["size_bytes"],
        PerceptualHash(compared["gradients"], colours, compared["frequencies"]),
    )
