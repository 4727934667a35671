"""The processes of a run, started by `torchrun`; without it there is one.

It knows ranks, machines and devices, and nothing of what is computed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar, cast

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from limelens.serve.errors import LimelensError
from limelens.serve.wording import first_line

T = TypeVar("T")

_TIMEOUT: Final = timedelta(hours=2)
"""The others wait while the first process of a machine reads the data; NCCL's own is 10 minutes."""

_EXPECTED: Final = "start several processes with torchrun, or one with WORLD_SIZE unset"


class ProcessError(LimelensError):
    """The processes of a run cannot be joined, or another one has ended."""


@dataclass(frozen=True)
class Processes:
    """This process among those of a run; the one of rank 0 decides, writes and reports.

    Args:
        rank: Its number.
        world_size: How many there are.
        device: Where it computes.
        local_rank: Its number on its machine.
        local_world_size: How many its machine has.
    """

    rank: int
    world_size: int
    device: torch.device
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that decides, writes and reports."""
        return self.rank == 0

    def num_threads(self, wanted: int) -> int:
        """The wanted number of threads; for 0 this process's part of the machine's cores."""
        return wanted or math.ceil((os.cpu_count() or 1) / self.local_world_size)

    def first(self, make: Callable[[], T]) -> T:
        """Calls a function in the first process, and returns its result in all processes.

        Raises:
            LimelensError: The function raised it, or an OSError.
        """
        if self.world_size == 1:
            return make()
        found: list[T | _Failure | None] = [_tried(make) if self.is_first else None]
        distributed.broadcast_object_list(found, src=0)
        return _result(found, 0)

    def once(self, make: Callable[[], T]) -> T:
        """Calls a function in one process of each machine, and returns its result in all of these.

        Raises:
            LimelensError: The function raised it, or an OSError, on any machine.
        """
        if self.world_size == 1:
            return make()
        found = self.gathered(_tried(make) if self.local_rank == 0 else None)
        return _result(found, self.rank - self.local_rank)

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, by rank, once all are here."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        distributed.all_gather_object(found, value)
        return found

    def agree(self, value: bool) -> bool:
        """Returns the first process's value in all processes."""
        if self.world_size == 1:
            return value
        shared = torch.tensor(float(value), device=self.device)
        distributed.broadcast(shared, src=0)
        return bool(shared)

    def follow_first(self, tensors: Iterable[Tensor]) -> None:
        """Gives tensors the values that they have in the first process."""
        if self.world_size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def total(self, values: Tensor) -> Tensor:
        """The sum of all processes' tensors."""
        if self.world_size == 1:
            return values
        shared = values.to(self.device, copy=True)
        distributed.all_reduce(shared)
        return shared.to(values.device)

    def mean(self, value: float, weight: float) -> float:
        """Returns the weighted mean of all processes' values."""
        if self.world_size == 1:
            return value
        sums = self.total(torch.tensor([value * weight, weight], dtype=torch.float64))
        return float(sums[0] / sums[1])


@contextmanager
def joined() -> Iterator[Processes]:
    """Joins the processes that torchrun started, for the duration of a run.

    Raises:
        ProcessError: The environment does not say which processes there are, as torchrun has it
            say, or another one ended meanwhile.
    """
    # Other tools that start processes set some of these, too.
    world_size = _number("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1
    cuda = torch.cuda.is_available()
    if world_size == 1:
        yield Processes(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    local_rank, local_world_size = _number("LOCAL_RANK"), _number("LOCAL_WORLD_SIZE")
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    try:
        store, rank, _ = next(rendezvous("env://", timeout=_TIMEOUT))
    except ValueError as error:
        raise ProcessError(f"{first_line(error)}; {_EXPECTED}") from error
    if local_world_size == world_size:
        # torchrun keeps the store when it starts processes again (--max-restarts), and with it the
        # addresses of those that have ended. Several machines do not count starts alike.
        store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    distributed.init_process_group(
        "nccl" if cuda else "gloo", store=store, rank=rank, world_size=world_size, timeout=_TIMEOUT
    )
    try:
        yield Processes(rank, world_size, device, local_rank, local_world_size)
    except RuntimeError as error:
        # Gloo has no class of its own for a lost connection.
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            raise ProcessError(
                "another process of this run has ended; its own message says why, and --resume "
                "goes on after the last finished epoch"
            ) from error
        raise
    finally:
        distributed.destroy_process_group()


def _number(name: str) -> int:
    """A number of the environment; sizes are 1 or more."""
    found = os.environ.get(name)
    if found is None or not found.isdecimal() or (name.endswith("WORLD_SIZE") and int(found) < 1):
        text = "not set" if found is None else repr(found)
        raise ProcessError(f"the environment variable {name} is {text}; {_EXPECTED}")
    return int(found)


@dataclass(frozen=True)
class _Failure:
    """What others are told of an error: its class may need other arguments than its text."""

    text: str


def _tried(make: Callable[[], T]) -> T | _Failure:
    try:
        return make()
    except LimelensError as error:
        return _Failure(str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        return _Failure(f"{where}{error.strerror or error}")


def _result(found: Sequence[T | _Failure | None], index: int) -> T:
    for one in found:
        if isinstance(one, _Failure):
            raise LimelensError(one.text)
    return cast(T, found[index])
