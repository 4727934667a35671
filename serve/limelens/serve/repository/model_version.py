"""The versions of a model, served or rejected, and how one scan of its files changes them.

It knows the stamps of files and the versions before and after, and loads nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from limelens.serve.bundle import Bundle
from limelens.serve.bundle.signatures import SIGNATURE_NAME

_T = TypeVar("_T")
WHOLE: Final = 0
"""In place of a version: the whole model is rejected, or what is no version in its folder."""
Stamp = tuple[int, ...]
"""Differs once a file, or its signature, has changed."""


@dataclass(frozen=True, eq=False)
class ModelVersion:
    """A version, 1, 2, 3 …, that is served; the name is that of the model's folder."""

    name: str
    version: int
    bundle: Bundle


@dataclass(frozen=True)
class RejectedVersion:
    """A version whose file was refused, or is held back because it is clearly worse.

    The same version may still be served as it was before its file changed.

    Args:
        version: May be `WHOLE`.
        reason: Why; of a version that is held back it begins with that.
        held_back_by: The version that it was judged against; 0 if it was refused.
    """

    name: str
    version: int
    reason: str
    held_back_by: int = 0

    @property
    def what_happened(self) -> str:
        """For sentences: `was refused: …` or `was held back: …`."""
        return f"was {self.reason}" if self.held_back_by else f"was refused: {self.reason}"


@dataclass(frozen=True)
class LoadCounts:
    """What became of versions so far: loaded, refused, held back, rolled back after a while."""

    loaded: int = 0
    rejected: int = 0
    rolled_back: int = 0
    held_back: int = 0


@dataclass(frozen=True)
class ModelState:
    """All versions of one model; replaced whole."""

    served: Mapping[int, ModelVersion] = field(default_factory=dict)
    rejected: Mapping[int, RejectedVersion] = field(default_factory=dict)
    stamps: Mapping[int, Stamp] = field(default_factory=dict)

    @cached_property
    def newest(self) -> ModelVersion | None:
        """The version for requests that name none."""
        return self.served[max(self.served)] if self.served else None


Snapshot = Mapping[str, ModelState]
"""The state of all models at one moment, by name."""


def stamp_of(path: Path) -> Stamp:
    """The stamp of a bundle and its signature; zeros for a file that is missing."""
    stamp: list[int] = []
    for file in (path, path.with_name(SIGNATURE_NAME)):
        try:
            status = file.stat()
        except OSError:
            stamp += [0, 0, 0, 0]
        else:
            may_read = os.access(file, os.R_OK)  # can change when nothing else does
            stamp += [status.st_mtime_ns, status.st_size, status.st_ino, may_read]
    return tuple(stamp)


class ModelScan:
    """Collects the findings about one model: its state when the scan began, and its files."""

    def __init__(self, before: ModelState, found: Mapping[int, Path]) -> None:
        self.found = found
        self.served = {key: one for key, one in before.served.items() if key in found}
        self.rejected = dict(before.rejected)
        self.stamps = dict(before.stamps)
        self.newly_loaded: list[ModelVersion] = []
        self.newly_rejected: list[RejectedVersion] = []
        self._before = before

    def needs(self, version: int, stamp: Stamp) -> bool:
        """Whether a version must be loaded: it is unknown, or its file has changed."""
        is_known = version in self.served or version in self.rejected
        return not is_known or self.stamps.get(version) != stamp

    def serve(self, loaded: ModelVersion, stamp: Stamp) -> None:
        """Adds a version that was loaded."""
        self.served[loaded.version] = loaded
        self.stamps[loaded.version] = stamp
        self.rejected.pop(loaded.version, None)
        self.newly_loaded.append(loaded)

    def reject(self, rejected: RejectedVersion, stamp: Stamp | None) -> None:
        """Adds a version that was refused; without a stamp it is tried again at the next scan."""
        if self.rejected.get(rejected.version) != rejected:
            self.newly_rejected.append(rejected)
        self.rejected[rejected.version] = rejected
        if stamp is not None:
            self.stamps[rejected.version] = stamp

    def reconsider(self, version: int) -> None:
        """Forgets why a version was rejected, so that it is loaded like a new one."""
        self.rejected.pop(version, None)

    def check_whole(self, name: str, problem: str, is_quiet: Callable[[Stamp], bool]) -> None:
        """Rejects the model as a whole for a problem, or accepts it once that is empty.

        A problem must have lasted for a while: folders are copied before their files.
        """
        known = self.rejected.get(WHOLE)
        if not problem:
            self.rejected.pop(WHOLE, None)
        elif (known is None or known.reason != problem) and is_quiet((hash(problem),)):
            self.reject(RejectedVersion(name, WHOLE, problem), None)

    def keep_only(self, wanted: set[int]) -> None:
        """Drops unwanted versions, but never the last one served while there are files."""
        last = self._before.newest
        kept = {key: one for key, one in self.served.items() if key in wanted}
        if not kept and self.found and last is not None:
            kept = {last.version: last}
        self.served = kept
        there = {WHOLE, *self.found, *wanted, *(one.version for one in self.newly_rejected)}
        self.rejected = {key: one for key, one in self.rejected.items() if key in there}
        self.stamps = {key: one for key, one in self.stamps.items() if key in there}

    def applied_to(self, now: ModelState) -> ModelState:
        """The state with these findings; keeps what else changed since the scan began."""
        served = _merged(self._before.served, self.served, now.served)
        rejected = _merged(self._before.rejected, self.rejected, now.rejected)
        return ModelState(served, rejected, self.stamps)


def _merged(
    before: Mapping[int, _T], found: Mapping[int, _T], now: Mapping[int, _T]
) -> dict[int, _T]:
    """The findings; versions that the scan did not touch keep their current state."""
    merged = dict(found)
    for version in {*before, *now}:
        if found.get(version) is before.get(version):
            merged.pop(version, None)
            if version in now:
                merged[version] = now[version]
    return merged
