"""How many workers there are, and what each gets of the machines' cores and GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from limelens.bulk.ray_session import RayError
from limelens.serve.processes.layout import usable_cores


@dataclass(frozen=True)
class Placed:
    """Workers as Ray starts them: how many, threads of each, and whether each has a GPU."""

    num: int
    num_threads: int
    on_gpu: bool


@dataclass(frozen=True)
class Workers:
    """Who is to work.

    Args:
        num: At once; 0: one for each GPU, or for each core.
        num_threads: Of each; 0: one, or with GPUs a GPU's share of the cores.
        on_gpu: Whether each needs a GPU; None: if there are any.
        address: Of a Ray cluster; None: on this machine alone.
    """

    num: int = 0
    num_threads: int = 0
    on_gpu: bool | None = None
    address: str | None = None

    @property
    def local_cpus(self) -> int:
        """What a Ray of this machine alone is told it has; more than the cores if asked for."""
        return max(usable_cores(), (self.num or 1) * (self.num_threads or 1))

    def placed(self) -> Placed:
        """What is there for them, on the Ray that this process is connected to.

        Raises:
            RayError: Not enough; Ray would wait for more.
        """
        import ray

        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cores, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
        on_gpu = gpus > 0 if self.on_gpu is None else self.on_gpu
        num_threads = self.num_threads or (max(1, cores // max(gpus, 1)) if on_gpu else 1)
        num = self.num or (gpus if on_gpu else cores // num_threads)
        if on_gpu and not 1 <= num <= gpus:
            raise RayError(
                f"{gpus} GPUs for {num or 1} workers; each needs one: --workers, --device"
            )
        if not num or num * num_threads > cores:
            raise RayError(
                f"{cores} cores for {num or 1} workers of {num_threads} threads; expected as many "
                "cores as threads: --workers, --threads"
            )
        return Placed(num, num_threads, on_gpu)
