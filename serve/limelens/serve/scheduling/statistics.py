"""What models have done since the server started: how many images, and where the time went.

It adds up, by file, every image that leaves an engine. It knows nothing of callers, nor of how the
sums are displayed.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from limelens.serve.scheduling.inference import Completion, InferenceStatus


@dataclass
class Runs:
    """The runs that joined the same number of images; each image adds the time of its whole run."""

    images: int = 0
    decode_s: float = 0.0
    run_s: float = 0.0


@dataclass
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
    runs: dict[int, Runs] = field(default_factory=dict)

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
    found = Statistics()
    for one in several:
        found.waited_s += one.waited_s
        found.failed += one.failed
        found.failed_s += one.failed_s
        found.last_answered_at = max(found.last_answered_at, one.last_answered_at)
        for size, more in one.runs.items():
            runs = found.runs.setdefault(size, Runs())
            runs.images += more.images
            runs.decode_s += more.decode_s
            runs.run_s += more.run_s
    return found


class StatisticsCollector:
    """Adds up what engines report; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A version that is loaded again is another bundle of the same file.
        self._by_path: dict[Path, Statistics] = defaultdict(Statistics)

    def record(self, completion: Completion) -> None:
        """Counts one image; meant as an engine's `on_completion`."""
        with self._lock:
            found = self._by_path[completion.bundle.path]
            if completion.status is not InferenceStatus.ANSWERED:
                found.failed += 1
                found.failed_s += completion.waited_s + completion.decode_s + completion.run_s
                return
            found.waited_s += completion.waited_s
            found.last_answered_at = time.time()
            runs = found.runs.setdefault(completion.batch_size, Runs())
            runs.images += 1
            runs.decode_s += completion.decode_s
            runs.run_s += completion.run_s

    def of(self, path: Path) -> Statistics:
        """What the version in a file has done, summed over its bundles."""
        with self._lock:
            return total([self._by_path[path]] if path in self._by_path else [])
