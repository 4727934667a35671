"""One version of a model, served or rejected, and the state of all models at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from limelens.serve.bundle import Bundle

WHOLE: Final = 0
"""In place of a version: the whole model is rejected, or what is no version in its folder."""
Stamp = tuple[int, ...]
"""Differs once a file, or its signature, has changed."""


@dataclass(frozen=True, eq=False)
class ModelVersion:
    """A version, 1, 2, 3 …, that is served; the name is that of the model's folder."""

    name: str
    version: int
    bundle: Bundle


@dataclass(frozen=True)
class RejectedVersion:
    """A version whose file was refused.

    The same version may still be served as it was before its file changed. The version may be
    `WHOLE`.
    """

    name: str
    version: int
    reason: str


@dataclass(frozen=True)
class LoadCounts:
    """What became of versions so far.

    Args:
        loaded: Versions that were loaded.
        rejected: Times that a file was refused.
        rolled_back: Versions that took over, failed, and were rolled back.
    """

    loaded: int = 0
    rejected: int = 0
    rolled_back: int = 0


@dataclass(frozen=True)
class ModelState:
    """All versions of one model; replaced whole."""

    served: Mapping[int, ModelVersion] = field(default_factory=dict)
    rejected: Mapping[int, RejectedVersion] = field(default_factory=dict)
    stamps: Mapping[int, Stamp] = field(default_factory=dict)

    @cached_property
    def newest(self) -> ModelVersion | None:
        """The version for requests that name none."""
        return self.served[max(self.served)] if self.served else None


Snapshot = Mapping[str, ModelState]
"""The state of all models at one moment, by name."""
