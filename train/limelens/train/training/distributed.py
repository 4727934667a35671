"""The processes of a run, started by `torchrun`; without it there is one.

It knows ranks and devices, and nothing of what is computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class Processes:
    """This process and the number of processes; the one of rank 0 evaluates, writes and reports."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def agree(self, value: bool) -> bool:
        """Returns the first process's value in all processes."""
        if self.world_size == 1:
            return value
        shared = torch.tensor(float(value), device=self.device)
        distributed.broadcast(shared, src=0)
        return bool(shared)

    def mean(self, value: float, weight: float) -> float:
        """Returns the weighted mean of all processes' values."""
        if self.world_size == 1:
            return value
        sums = torch.tensor([value * weight, weight], dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return float(sums[0] / sums[1])


@contextmanager
def joined() -> Iterator[Processes]:
    """Joins the processes that torchrun started, for the duration of a run."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    if world_size == 1:
        yield Processes(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(distributed.get_rank(), world_size, device)
    finally:
        distributed.destroy_process_group()
