"""What the supervisor and its workers share: the values they send, and the number of an epoch."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limelens.serve.repository.model_version import LoadCounts, RejectedVersion
from limelens.serve.rpc.server_config import ServerConfig

if TYPE_CHECKING:
    from limelens.serve.observing.logs import LogFormat


@dataclass(frozen=True)
class Assignment:
    """The first message to a worker.

    Args:
        number: Of the worker, from 1.
        config: How its server is set up.
        metrics: The folder that it counts into; None if metrics are off.
        proof_pause_s: Seconds between two proofs that its models run.
    """

    number: int
    config: ServerConfig
    metrics: Path | None
    proof_pause_s: float


@dataclass(frozen=True)
class DeviceAssignment:
    """The first message to a process that owns a device.

    Args:
        device: As `load_bundle` takes it.
        tf32: Whether a GPU may round the inputs of products to 10 bits.
        log_level: Of its log.
        log_format: Of its log.
    """

    device: str
    tf32: bool
    log_level: int
    log_format: LogFormat


@dataclass(frozen=True)
class Loaded:
    """What a worker found out when it loaded a bundle; the fields are those of `Bundle`."""

    provider: str
    provider_reason: str
    num_threads: int


@dataclass(frozen=True)
class Stage:
    """A state of all models, staged before it is served.

    Args:
        served: By name and version, the number of the bundle.
        load_counts: What became of versions so far.
        canaries: Numbers of the bundles whose results are reported.
    """

    epoch: int
    served: Mapping[tuple[str, int], int]
    rejected: tuple[RejectedVersion, ...]
    load_counts: LoadCounts
    canaries: frozenset[int]


class Epoch:
    """The number of the state that is served, in memory that all processes share.

    One process writes it, in one store of eight bytes: every reader sees the number before or the
    number after.

    Args:
        file: Descriptor of the memory, to be passed on to other processes; None allocates some.
    """

    def __init__(self, file: int | None = None) -> None:
        if file is None:
            file = os.memfd_create("limelens-epoch")  # not a file that others could open or fill
            os.ftruncate(file, mmap.PAGESIZE)
        self.file = file
        self._memory = memoryview(mmap.mmap(file, mmap.PAGESIZE)).cast("Q")

    def read(self) -> int:
        """The number now."""
        return self._memory[0]

    def write(self, number: int) -> None:
        """Replaces it, for all processes at once."""
        self._memory[0] = number
