"""The models of one worker: bundles that it loaded, in states that the supervisor staged.

Several states are staged, each with the number of its epoch. For every call the worker reads from
shared memory which of them is served, so that all workers change at one moment. The supervisor
finds versions and decides which are served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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

_Staged = tuple[Snapshot, LoadCounts]  # a stage, with bundles in place of their numbers


class StagedRegistry(ModelRegistry):
    """The versions that are served in this worker.

    Args:
        report: Called with the number of a canary and whether a result was usable, in any thread.
    """

    def __init__(self, epoch: Epoch, report: Callable[[int, bool], None]) -> None:
        super().__init__()
        self._epoch = epoch
        self._report = report
        self.bundles: dict[int, Bundle] = {}  # by number, for stages to come
        self._latest: _Staged = {}, LoadCounts()
        self._stages: Mapping[int, _Staged] = {0: self._latest}
        self._canaries: Mapping[Bundle, int] = {}
        self._served: dict[tuple[str, int, int], ModelVersion] = {}

    def stage(self, stage: Stage) -> None:
        """Stages a state. It is served once the epoch equals its number."""
        served: dict[str, dict[int, ModelVersion]] = {}
        kept = {}
        for (name, version), number in stage.served.items():
            key = name, version, number
            # An unchanged version stays the same object: open streams see that nothing changed.
            kept[key] = self._served.get(key) or ModelVersion(name, version, self.bundles[number])
            served.setdefault(name, {})[version] = kept[key]
        rejected: dict[str, dict[int, RejectedVersion]] = {}
        for one in stage.rejected:
            rejected.setdefault(one.name, {})[one.version] = one
        snapshot = {
            name: ModelState(served.get(name, {}), rejected.get(name, {}))
            for name in {*served, *rejected}
        }
        self._served = kept
        canaries = {self.bundles[number]: number for number in stage.canaries}
        # Results of the new state may come before `settle`.
        self._canaries = {**self._canaries, **canaries}
        latest = snapshot, stage.load_counts
        self._stages = {**self._stages, stage.epoch: latest}
        self._latest = latest

    def settle(self, epoch: int, canaries: frozenset[int]) -> None:
        """Releases the states before one that is served by now, and notifies subscribers."""
        self._stages = {one: staged for one, staged in self._stages.items() if one >= epoch}
        self.follow(canaries)
        self._notify()

    def follow(self, canaries: frozenset[int]) -> None:
        """Reports the results of these bundles from now on, and of no others."""
        self._canaries = {self.bundles[one]: one for one in canaries if one in self.bundles}

    @property
    def snapshot(self) -> Snapshot:
        return self._now[0]

    @property
    def load_counts(self) -> LoadCounts:
        return self._now[1]

    def record(self, bundle: Bundle, *, ok: bool) -> None:
        number = self._canaries.get(bundle)
        if number is not None:  # seldom
            self._report(number, ok)

    @property
    def _now(self) -> _Staged:
        # If the state of the number was released since it was read, a later one is served.
        return self._stages.get(self._epoch.read(), self._latest)
