"""What models have done since the server started: how many pictures, and where the time went.

It is told of every picture that leaves a scheduler, and adds up by model and version. It knows
nothing of who asked, nor of how the sums are shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from limelens.serve.scheduler import Ended, Fate

if TYPE_CHECKING:
    from limelens.serve.bundle import Bundle


@dataclass(frozen=True)
class Runs:
    """The runs that joined the same number of pictures.

    Args:
        pictures: How many were answered.
        decode_s: Preparing their pixels, in seconds.
        run_s: The model, in seconds, told once for each picture of a run.
    """

    pictures: int = 0
    decode_s: float = 0.0
    run_s: float = 0.0


@dataclass(frozen=True)
class Statistics:
    """What one version of a model has done.

    Args:
        waited_s: Of the answered pictures, from their arrival until their turn, in seconds.
        failed: Pictures that were not answered, whatever the reason.
        failed_s: Until it was known, in seconds.
        last_answered_at: By `time.time`; 0 is never.
        runs: By the number of pictures in a run.
    """

    waited_s: float = 0.0
    failed: int = 0
    failed_s: float = 0.0
    last_answered_at: float = 0.0
    runs: Mapping[int, Runs] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """Pictures that were answered."""
        return sum(runs.pictures for runs in self.runs.values())

    @property
    def decode_s(self) -> float:
        """Preparing the pixels of the answered pictures, in seconds."""
        return sum(runs.decode_s for runs in self.runs.values())

    @property
    def run_s(self) -> float:
        """The model, in seconds: for each answered picture that of its whole run."""
        return sum(runs.run_s for runs in self.runs.values())


class Counting:
    """Adds up what schedulers tell; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_path: dict[Path, Statistics] = {}

    def count(self, ended: Ended) -> None:
        """Counts one picture; meant as a scheduler's `on_ended`."""
        now = time.time()
        # A version that is loaded again is another bundle of the same file.
        key = ended.bundle.path
        with self._lock:
            self._by_path[key] = _added(self._by_path.get(key, Statistics()), ended, now)

    def of(self, bundle: Bundle) -> Statistics:
        """What a version has done, whichever of its bundles did it."""
        with self._lock:
            return self._by_path.get(bundle.path, Statistics())


def _added(before: Statistics, ended: Ended, now: float) -> Statistics:
    if ended.fate is not Fate.ANSWERED:
        took_s = ended.waited_s + ended.decode_s + ended.run_s
        return Statistics(
            before.waited_s,
            before.failed + 1,
            before.failed_s + took_s,
            before.last_answered_at,
            before.runs,
        )
    runs = before.runs.get(ended.batch_size, Runs())
    added = Runs(runs.pictures + 1, runs.decode_s + ended.decode_s, runs.run_s + ended.run_s)
    return Statistics(
        before.waited_s + ended.waited_s,
        before.failed,
        before.failed_s,
        now,
        {**before.runs, ended.batch_size: added},
    )
