"""What the supervisor and its workers tell each other: plain values, on which others act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from limelens.serve.repository.model_repository import RejectedVersion, Swaps
from limelens.serve.rpc.server_config import ServerConfig


@dataclass(frozen=True)
class Assignment:
    """What a worker is told before anything else.

    Args:
        number: Which it is, from 1.
        config: How its server is set up.
        metrics: The folder into which it counts; None is not at all.
    """

    number: int
    config: ServerConfig
    metrics: Path | None


@dataclass(frozen=True)
class Loaded:
    """What a worker found out when it loaded a bundle; the fields are those of `Bundle`."""

    provider: str
    provider_reason: str
    num_threads: int


@dataclass(frozen=True)
class Stage:
    """The state of all models.

    Args:
        epoch: Its number.
        served: By name and version, the number of the bundle that answers.
        refused: What does not answer, and why.
        swaps: What became of versions so far.
        on_trial: Numbers of bundles whose answers are to be told of.
    """

    epoch: int
    served: Mapping[tuple[str, int], int]
    refused: tuple[RejectedVersion, ...]
    swaps: Swaps
    on_trial: frozenset[int] = field(default_factory=frozenset)
