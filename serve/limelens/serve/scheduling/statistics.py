"""What models have done since the server started: how many images, and where the time went.

It adds up, by file, every image that leaves an engine. It knows nothing of callers, nor of how the
sums are displayed.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from limelens.serve.scheduling.inference import Completion, InferenceStatus


@dataclass(frozen=True)
class Runs:
    """The runs that joined the same number of images.

    Args:
        images: How many got a result.
        decode_s: Time to prepare their pixels, in seconds.
        run_s: Time of the model, in seconds; each image of a run adds that of the whole run.
    """

    images: int = 0
    decode_s: float = 0.0
    run_s: float = 0.0


@dataclass(frozen=True)
class Statistics:
    """What one version of a model has done.

    Args:
        waited_s: Time that images with a result waited for their turn, in seconds.
        failed: Images without a result, for any reason.
        failed_s: Time until that was known, in seconds.
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
        """Images with a result."""
        return sum(runs.images for runs in self.runs.values())

    @property
    def decode_s(self) -> float:
        """Time to prepare the pixels of images with a result, in seconds."""
        return sum(runs.decode_s for runs in self.runs.values())

    @property
    def run_s(self) -> float:
        """Time of the model, in seconds: for each image with a result that of its whole run."""
        return sum(runs.run_s for runs in self.runs.values())


def total(several: Iterable[Statistics]) -> Statistics:
    """Adds up what one version did in several processes."""
    found = tuple(several)
    runs: dict[int, Runs] = {}
    for size, one in ((size, one) for each in found for size, one in each.runs.items()):
        before = runs.get(size, Runs())
        runs[size] = Runs(
            before.images + one.images,
            before.decode_s + one.decode_s,
            before.run_s + one.run_s,
        )
    return Statistics(
        sum(one.waited_s for one in found),
        sum(one.failed for one in found),
        sum(one.failed_s for one in found),
        max((one.last_answered_at for one in found), default=0.0),
        runs,
    )


class _Sums:
    """Sums of one version, that grow in place; guarded by the collector's lock."""

    __slots__ = ("failed", "failed_s", "last_answered_at", "runs", "waited_s")

    def __init__(self) -> None:
        self.waited_s = 0.0
        self.failed = 0
        self.failed_s = 0.0
        self.last_answered_at = 0.0
        self.runs: dict[int, list[float]] = {}  # images, decode_s, run_s

    def add(self, one: Completion, now: float) -> None:
        if one.status is not InferenceStatus.ANSWERED:
            self.failed += 1
            self.failed_s += one.waited_s + one.decode_s + one.run_s
            return
        self.waited_s += one.waited_s
        self.last_answered_at = now
        runs = self.runs.setdefault(one.batch_size, [0, 0.0, 0.0])
        runs[0] += 1
        runs[1] += one.decode_s
        runs[2] += one.run_s


class StatisticsCollector:
    """Adds up what engines report; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A version that is loaded again is another bundle of the same file.
        self._by_path: dict[Path, _Sums] = defaultdict(_Sums)

    def record(self, completion: Completion) -> None:
        """Counts one image; meant as an engine's `on_completion`."""
        now = time.time()
        with self._lock:
            self._by_path[completion.bundle.path].add(completion, now)

    def of(self, path: Path) -> Statistics:
        """What the version in a file has done, summed over its bundles."""
        with self._lock:
            sums = self._by_path.get(path, _Sums())
            runs = {size: Runs(int(count), *spent) for size, (count, *spent) in sums.runs.items()}
            return Statistics(
                sums.waited_s, sums.failed, sums.failed_s, sums.last_answered_at, runs
            )
