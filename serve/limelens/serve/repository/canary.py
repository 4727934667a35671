"""The first answers of a version that just took over: does it hold, or is it taken out again?

Golden vector and warm-up cannot show everything. It counts answers and failures, and keeps the
version before at hand until enough was answered. It knows nothing of files, calls or gRPC.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from limelens.serve.bundle import Bundle
    from limelens.serve.repository.model_repository import ModelVersion

PROVEN: Final = 100
"""Answers after which a version is trusted, and the one before may be freed."""
TOO_MANY: Final = 5
"""Failures in a row that end a trial."""


@dataclass(eq=False)
class _Canary:
    before: ModelVersion
    answered: int = 0
    failed_in_a_row: int = 0


class Canaries:
    """Versions that must still prove themselves. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trials: dict[Bundle, _Canary] = {}

    @property
    def bundles(self) -> frozenset[Bundle]:
        """Those on trial."""
        with self._lock:
            return frozenset(self._trials)

    def begin(self, bundle: Bundle, before: ModelVersion) -> None:
        """Puts a version on trial.

        Args:
            bundle: What answers from now on.
            before: What answered so far.
        """
        with self._lock:
            self._trials[bundle] = _Canary(before)

    def before(self, bundle: Bundle) -> ModelVersion | None:
        """What a version on trial took over from; None where it is not on trial."""
        with self._lock:
            trial = self._trials.get(bundle)
            return None if trial is None else trial.before

    def keep(self, bundles: set[Bundle]) -> None:
        """Forgets trials of versions that answer no more."""
        with self._lock:
            for bundle in self._trials.keys() - bundles:
                del self._trials[bundle]

    def note(self, bundle: Bundle, *, ok: bool) -> ModelVersion | None:
        """Counts one answer.

        Args:
            bundle: Who was asked.
            ok: Whether it gave usable numbers.

        Returns:
            Where its trial ends here because it failed too often: who is to answer again.
        """
        if bundle not in self._trials:  # as nearly always
            return None
        with self._lock:
            trial = self._trials.get(bundle)
            if trial is None:
                return None
            if ok:
                trial.failed_in_a_row = 0
                trial.answered += 1
                if trial.answered >= PROVEN:
                    del self._trials[bundle]
                return None
            trial.failed_in_a_row += 1
            if trial.failed_in_a_row < TOO_MANY:
                return None
            del self._trials[bundle]
            return trial.before
