"""The models of one worker: bundles that it loaded, in states that the supervisor staged.

Several states are staged, each with the number of its epoch. For every call the worker reads from
shared memory which of them is served, so that all workers change at one moment. The supervisor
finds versions and decides which are served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from limelens.serve.bundle import Bundle
from limelens.serve.processes.messages import Epoch, Stage
from limelens.serve.repository.model_version import (
    LoadCounts,
    ModelState,
    ModelVersion,
    RejectedVersion,
    Snapshot,
)
from limelens.serve.repository.registry import ModelRegistry


@dataclass(frozen=True)
class _Staged:
    """A stage, with bundles in place of their numbers."""

    snapshot: Snapshot = field(default_factory=dict)
    load_counts: LoadCounts = field(default_factory=LoadCounts)


class StagedRegistry(ModelRegistry):
    """The versions that are served in this worker.

    Args:
        epoch: The state that is served.
        report: Called with the number of a canary and whether a result was usable, in any thread.
    """

    def __init__(self, epoch: Epoch, report: Callable[[int, bool], None]) -> None:
        super().__init__()
        self._epoch = epoch
        self._report = report
        self._bundles: dict[int, Bundle] = {}
        self._latest = _Staged()
        self._stages: Mapping[int, _Staged] = {0: self._latest}
        self._canaries: Mapping[Bundle, int] = {}
        self._served: dict[tuple[str, int, int], ModelVersion] = {}

    def add(self, number: int, bundle: Bundle) -> None:
        """Keeps a bundle for stages to come."""
        self._bundles[number] = bundle

    def bundle(self, number: int) -> Bundle | None:
        """The bundle of a number; None if it was released."""
        return self._bundles.get(number)

    def release(self, number: int) -> None:
        """Forgets a bundle that no later stage will name."""
        self._bundles.pop(number, None)

    def stage(self, stage: Stage) -> None:
        """Stages a state. It is served once the epoch equals its number."""
        served: dict[str, dict[int, ModelVersion]] = {}
        kept = {}
        for (name, version), number in stage.served.items():
            key = name, version, number
            # An unchanged version stays the same object: open streams see that nothing changed.
            kept[key] = self._served.get(key) or ModelVersion(name, version, self._bundles[number])
            served.setdefault(name, {})[version] = kept[key]
        rejected: dict[str, dict[int, RejectedVersion]] = {}
        for one in stage.rejected:
            rejected.setdefault(one.name, {})[one.version] = one
        snapshot = {
            name: ModelState(served.get(name, {}), rejected.get(name, {}))
            for name in {*served, *rejected}
        }
        self._served = kept
        staged = _Staged(snapshot, stage.load_counts)
        canaries = {self._bundles[number]: number for number in stage.canaries}
        # Results of the new state may come before `settle`.
        self._canaries = {**self._canaries, **canaries}
        self._stages = {**self._stages, stage.epoch: staged}
        self._latest = staged

    def settle(self, epoch: int, canaries: frozenset[int]) -> None:
        """Releases the states before one that is served by now, and notifies subscribers."""
        self._stages = {one: staged for one, staged in self._stages.items() if one >= epoch}
        self.follow(canaries)
        self._notify()

    def follow(self, canaries: frozenset[int]) -> None:
        """Reports the results of these bundles from now on, and of no others."""
        self._canaries = {self._bundles[one]: one for one in canaries if one in self._bundles}

    @property
    def snapshot(self) -> Snapshot:
        """See `ModelRegistry`."""
        return self._now.snapshot

    @property
    def load_counts(self) -> LoadCounts:
        """See `ModelRegistry`."""
        return self._now.load_counts

    def record(self, bundle: Bundle, *, ok: bool) -> None:
        """See `ModelRegistry`."""
        number = self._canaries.get(bundle)
        if number is not None:  # seldom
            self._report(number, ok)

    @property
    def _now(self) -> _Staged:
        # If the state of the number was released since it was read, a later one is served.
        return self._stages.get(self._epoch.read(), self._latest)
