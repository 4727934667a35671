"""What one worker serves: bundles that it was told to load, in states that it was told of.

Several states lie ready, each under the number of its epoch; which of them holds is read anew for
every call from memory that all workers share, so that all of them change at one moment. It decides
nothing and finds nothing: the supervisor does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from limelens.serve.bundle import Bundle
from limelens.serve.processes.epoch import Epoch
from limelens.serve.processes.messages import Stage
from limelens.serve.repository.model_repository import (
    ModelState,
    ModelVersion,
    ModelVersions,
    RejectedVersion,
    Snapshot,
    Swaps,
)


@dataclass(frozen=True)
class _Staged:
    """The same with the bundles themselves."""

    snapshot: Snapshot = field(default_factory=dict)
    swaps: Swaps = field(default_factory=Swaps)


class StagedModels(ModelVersions):
    """What answers in this worker.

    Args:
        epoch: Says which state holds.
        note: Is told the number of a bundle on trial and how its answer ended; from any thread.
    """

    def __init__(self, epoch: Epoch, note: Callable[[int, bool], None]) -> None:
        super().__init__()
        self._epoch = epoch
        self._note = note
        self._bundles: dict[int, Bundle] = {}
        self._latest = _Staged()
        self._stages: Mapping[int, _Staged] = {0: self._latest}
        self._on_trial: Mapping[Bundle, int] = {}
        self._served: dict[tuple[str, int, int], ModelVersion] = {}

    def add(self, number: int, bundle: Bundle) -> None:
        """Keeps a bundle at hand for the states to come."""
        self._bundles[number] = bundle

    def bundle(self, number: int) -> Bundle | None:
        """The bundle of a number; None where it was let go."""
        return self._bundles.get(number)

    def release(self, number: int) -> None:
        """Forgets a bundle that no state will name any more."""
        self._bundles.pop(number, None)

    def stage(self, stage: Stage) -> None:
        """Lays a state ready. It holds once the shared number is its own."""
        served: dict[str, dict[int, ModelVersion]] = {}
        kept = {}
        for (name, version), number in stage.served.items():
            key = name, version, number
            # What stays is the same object: open streams see by that that nothing changed.
            one = self._served.get(key) or ModelVersion(name, version, self._bundles[number])
            kept[key] = served.setdefault(name, {})[version] = one
        refused: dict[str, dict[int, RejectedVersion]] = {}
        for refusal in stage.refused:
            refused.setdefault(refusal.name, {})[refusal.version] = refusal
        snapshot = {
            name: ModelState(served.get(name, {}), refused.get(name, {}))
            for name in {*served, *refused}
        }
        self._served = kept
        staged = _Staged(snapshot, stage.swaps)
        on_trial = {self._bundles[number]: number for number in stage.on_trial}
        # Answers of the new state may come before `settle`.
        self._on_trial = {**self._on_trial, **on_trial}
        self._stages = {**self._stages, stage.epoch: staged}
        self._latest = staged

    def settle(self, epoch: int, on_trial: frozenset[int]) -> None:
        """A state holds by now: those before it are let go, and who asked to be told is."""
        self._stages = {one: staged for one, staged in self._stages.items() if one >= epoch}
        self.follow(on_trial)
        self._tell()

    def follow(self, on_trial: frozenset[int]) -> None:
        """Answers of these bundles are to be told of, and of no others."""
        self._on_trial = {self._bundles[one]: one for one in on_trial if one in self._bundles}

    @property
    def snapshot(self) -> Snapshot:
        """See `ModelVersions`."""
        return self._now.snapshot

    @property
    def swaps(self) -> Swaps:
        """See `ModelVersions`."""
        return self._now.swaps

    def note(self, bundle: Bundle, *, ok: bool) -> None:
        """See `ModelVersions`."""
        number = self._on_trial.get(bundle)
        if number is not None:  # seldom
            self._note(number, ok)

    @property
    def _now(self) -> _Staged:
        # Where the state of a number that was just read has been let go since, a later one holds.
        return self._stages.get(self._epoch.read(), self._latest)
