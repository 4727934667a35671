"""The models that are served now, as requests see them.

A registry finds the version that a name and a number mean. It knows neither files nor how versions
come and go. Readers never wait.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable

from limelens.serve.bundle import Bundle
from limelens.serve.bundle.devices import CPU
from limelens.serve.errors import InvalidRequestError, NotFoundError
from limelens.serve.repository.model_version import (
    LoadCounts,
    ModelState,
    ModelVersion,
    RejectedVersion,
    Snapshot,
)
from limelens.serve.wording import counted, listed


class ModelRegistry(abc.ABC):
    """The versions of all models; notifies subscribers when they change."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[], None]] = []

    @property
    @abc.abstractmethod
    def snapshot(self) -> Snapshot:
        """The state at this moment."""

    @property
    @abc.abstractmethod
    def load_counts(self) -> LoadCounts:
        """What became of versions so far."""

    @abc.abstractmethod
    def record(self, bundle: Bundle, *, ok: bool) -> None:
        """Counts one result, usable or not, so that a version that fails is rolled back."""

    @property
    def served(self) -> tuple[ModelVersion, ...]:
        """By name, then version."""
        models = sorted(self.snapshot.items())
        return tuple(one for _, model in models for _, one in sorted(model.served.items()))

    @property
    def rejected(self) -> tuple[RejectedVersion, ...]:
        """By name, then version."""
        models = sorted(self.snapshot.items())
        return tuple(one for _, model in models for _, one in sorted(model.rejected.items()))

    @property
    def num_subscribers(self) -> int:
        """How many functions are called when versions change."""
        return len(self._subscribers)

    def subscribe(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Calls a function, from any thread, on any change until the returned one is called."""
        self._subscribers.append(on_change)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._subscribers.remove(on_change)

        return unsubscribe

    def get(self, name: str = "", version: int = 0) -> ModelVersion:
        """The version that a request means.

        No name means the only model, version 0 the newest that is served.

        Raises:
            InvalidRequestError: No name although several are served, or a negative version.
            NotFoundError: No such model or version; the message names those that exist.
        """
        models = self.snapshot
        known = models.get(name)
        if not version and known is not None and known.newest is not None:
            return known.newest
        names = sorted(name for name, model in models.items() if model.served)
        if version < 0:
            raise InvalidRequestError("version", f"{version}; expected 1 or more, or 0 for newest")
        if not name:
            if len(names) != 1:
                raise InvalidRequestError("model", f"not given; expected one of {', '.join(names)}")
            name = names[0]
        model = models.get(name, ModelState())
        if model.newest is None:
            reasons = listed([one.what_happened for one in model.rejected.values()])
            reason = f" (it {reasons})" if reasons else ""
            raise NotFoundError(
                f"no model {name[:100]!r} is served{reason}; there {_is_or_are(names)}",
                kind="model",
                name=name[:100],
            )
        if version and version not in model.served:
            rejected = model.rejected.get(version)
            reason = f" (it {rejected.what_happened})" if rejected else ""
            raise NotFoundError(
                f"no version {version} of {name!r} is served{reason}; there "
                f"{_is_or_are([str(v) for v in sorted(model.served)])}",
                kind="model version",
                name=f"{name}/{version}",
            )
        return model.served[version] if version else model.newest

    def _notify(self) -> None:
        for on_change in tuple(self._subscribers):
            on_change()


def ready_line(address: str, models: ModelRegistry, processes: int = 1) -> str:
    """What is served, where and on what, in one line."""
    names = ", ".join(f"{one.name} {one.version}" for one in models.served)
    bundles = [one.bundle for one in models.served]
    devices = {
        f"{one.provider}, {counted(one.num_threads, 'thread')}"
        if one.provider == CPU
        else one.provider
        for one in bundles
    }
    several = f"{processes} processes; " if processes > 1 else ""
    return f"limelens: serving {names} on {address} ({several}{'; '.join(sorted(devices))})"


def status_line(address: str, models: ModelRegistry) -> str:
    """How many models are served, and where."""
    return f"serving {counted(len({one.name for one in models.served}), 'model')} on {address}"


def _is_or_are(names: list[str]) -> str:
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(names)}"
