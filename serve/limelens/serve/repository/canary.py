"""Canaries: versions that took over and have yet to prove themselves.

The golden vector and the first runs cannot show everything. Results are counted, and the version
before is kept until enough of them were usable. It knows nothing of files or calls.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from limelens.serve.bundle import Bundle
from limelens.serve.repository.model_version import ModelVersion

PROVEN: Final = 100
"""Usable results after which a version is trusted and its predecessor may be freed."""
TOO_MANY: Final = 5
"""Failures in a row after which a version is rolled back."""


@dataclass(eq=False)
class _Canary:
    predecessor: ModelVersion
    num_usable: int = 0
    num_failed_in_a_row: int = 0


class Canaries:
    """The versions that are canaries now. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._canaries: dict[Bundle, _Canary] = {}

    @property
    def bundles(self) -> frozenset[Bundle]:
        """All of them."""
        with self._lock:
            return frozenset(self._canaries)

    def begin(self, bundle: Bundle, predecessor: ModelVersion) -> None:
        """Makes a version that takes over from `predecessor` a canary."""
        with self._lock:
            self._canaries[bundle] = _Canary(predecessor)

    def predecessor(self, bundle: Bundle) -> ModelVersion | None:
        """The version that a canary took over from; None if it is no canary."""
        with self._lock:
            canary = self._canaries.get(bundle)
            return None if canary is None else canary.predecessor

    def keep(self, bundles: set[Bundle]) -> None:
        """Forgets canaries that are not among these, because they are no longer served."""
        with self._lock:
            for bundle in self._canaries.keys() - bundles:
                del self._canaries[bundle]

    def record(self, bundle: Bundle, *, ok: bool) -> ModelVersion | None:
        """Counts a result; returns the version to roll back to if this one failed too often."""
        canary = self._canaries.get(bundle)
        if canary is None:  # as nearly always
            return None
        with self._lock:
            canary.num_usable += ok
            canary.num_failed_in_a_row = 0 if ok else canary.num_failed_in_a_row + 1
            has_failed = canary.num_failed_in_a_row >= TOO_MANY
            if has_failed or canary.num_usable >= PROVEN:
                is_first = self._canaries.pop(bundle, None) is not None
                return canary.predecessor if has_failed and is_first else None
        return None
