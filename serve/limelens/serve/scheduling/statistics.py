"""What models have done since the server started: how many images, and where the time went.

It is told of every image that leaves an engine, and adds up by model and version. It knows
nothing of who asked, nor of how the sums are shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from limelens.serve.scheduling.engine import Completion, InferenceStatus


@dataclass(frozen=True)
class Runs:
    """The runs that joined the same number of images.

    Args:
        images: How many were answered.
        decode_s: Preparing their pixels, in seconds.
        run_s: The model, in seconds, told once for each image of a run.
    """

    images: int = 0
    decode_s: float = 0.0
    run_s: float = 0.0


@dataclass(frozen=True)
class Statistics:
    """What one version of a model has done.

    Args:
        waited_s: Of the answered images, from their arrival until their turn, in seconds.
        failed: Images that were not answered, whatever the reason.
        failed_s: Until it was known, in seconds.
        last_answered_at: By `time.time`; 0 is never.
        runs: By the number of images in a run.
    """

    waited_s: float = 0.0
    failed: int = 0
    failed_s: float = 0.0
    last_answered_at: float = 0.0
    runs: Mapping[int, Runs] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """Images that were answered."""
        return sum(runs.images for runs in self.runs.values())

    @property
    def decode_s(self) -> float:
        """Preparing the pixels of the answered images, in seconds."""
        return sum(runs.decode_s for runs in self.runs.values())

    @property
    def run_s(self) -> float:
        """The model, in seconds: for each answered image that of its whole run."""
        return sum(runs.run_s for runs in self.runs.values())


def total(many: Iterable[Statistics]) -> Statistics:
    """What one version has done in several processes."""
    found = tuple(many)
    runs: dict[int, Runs] = {}
    for size, one in ((size, one) for each in found for size, one in each.runs.items()):
        so_far = runs.get(size, Runs())
        runs[size] = Runs(
            so_far.images + one.images,
            so_far.decode_s + one.decode_s,
            so_far.run_s + one.run_s,
        )
    return Statistics(
        sum(one.waited_s for one in found),
        sum(one.failed for one in found),
        sum(one.failed_s for one in found),
        max((one.last_answered_at for one in found), default=0.0),
        runs,
    )


class _Sums:
    """Of one version; guarded by the lock of who has it."""

    __slots__ = ("failed", "failed_s", "last_answered_at", "runs", "waited_s")

    def __init__(self) -> None:
        self.waited_s = 0.0
        self.failed = 0
        self.failed_s = 0.0
        self.last_answered_at = 0.0
        self.runs: dict[int, list[float]] = {}  # images, decode_s, run_s

    def add(self, ended: Completion, now: float) -> None:
        if ended.fate is not InferenceStatus.ANSWERED:
            self.failed += 1
            self.failed_s += ended.waited_s + ended.decode_s + ended.run_s
            return
        self.waited_s += ended.waited_s
        self.last_answered_at = now
        runs = self.runs.setdefault(ended.batch_size, [0, 0.0, 0.0])
        runs[0] += 1
        runs[1] += ended.decode_s
        runs[2] += ended.run_s

    def told(self) -> Statistics:
        return Statistics(
            self.waited_s,
            self.failed,
            self.failed_s,
            self.last_answered_at,
            {size: Runs(int(count), *spent) for size, (count, *spent) in self.runs.items()},
        )


class Counting:
    """Adds up what engines report; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_path: dict[Path, _Sums] = {}

    def count(self, ended: Completion) -> None:
        """Counts one image; meant as an engine's `on_ended`."""
        now = time.time()
        # A version that is loaded again is another bundle of the same file.
        key = ended.bundle.path
        with self._lock:
            sums = self._by_path.get(key)
            if sums is None:
                sums = self._by_path[key] = _Sums()
            sums.add(ended, now)

    def of(self, path: Path) -> Statistics:
        """What a version has done, whichever of its bundles did it; found by its file."""
        with self._lock:
            sums = self._by_path.get(path)
            return Statistics() if sums is None else sums.told()
