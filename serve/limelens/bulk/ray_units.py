"""Has Ray Data do the units: a pool of processes, each with one session, any of which may die.

A row that goes in is the number of a unit, and a row that comes out says what came of it; images
and results go from and to files. A process that dies is started again, and its unit with it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from limelens.bulk.ray_session import RayError
from limelens.bulk.sources import Reader
from limelens.bulk.unit import Done, Units
from limelens.bulk.work import WorkSpec
from limelens.serve.about import package_version
from limelens.serve.errors import LimelensError
from limelens.serve.wording import first_line


@dataclass(frozen=True)
class Job:
    """What a worker must know, as it is sent there.

    Args:
        spec: The work.
        out: The folder of the parts.
        staging: The run's own folder.
        run: Its number.
        root: The input, which must be there.
        column: Of tables.
        num_threads: Of onnxruntime.
        version: Of limelens; another one might make other rows.
    """

    spec: WorkSpec
    out: Path
    staging: Path
    run: int
    root: Path
    column: str
    num_threads: int
    version: str = field(default_factory=package_version)


class BulkFailedError(LimelensError):
    """A worker cannot do its work, whichever images it is given; the message is its own."""


class UnitsActor:
    """One worker; Ray makes it in a process of its own."""

    def __init__(self, job: Job) -> None:
        # An error raised here would reach the user as Ray's own, with a traceback.
        self._failure = ""
        try:
            _check_machine(job)
            self._units = Units(
                job.out,
                job.staging,
                job.run,
                job.spec.open(job.num_threads),
                job.spec.schema,
                Reader(job.column),
            )
        except (LimelensError, OSError) as error:
            self._failure = f"{socket.gethostname()}: {error}"

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Does the units of a batch: one."""
        (number,) = batch["item"]
        if not self._failure:
            try:
                done = self._units.do(int(number))
            except (LimelensError, OSError) as error:
                self._failure = f"{socket.gethostname()}: {error}"
        if self._failure:
            return _row(-1, {}, 0.0, self._failure)
        return _row(done.num_images, done.errors, done.seconds, "")


def _check_machine(job: Job) -> None:
    """Whether this machine is like the one that the command runs on.

    Raises:
        BulkFailedError: It has another limelens, or no input, or where that should be mounted an
            empty folder.
        OSError: The input cannot be listed.
    """
    if job.version != package_version():
        raise BulkFailedError(f"limelens {package_version()}; expected {job.version} everywhere")
    if job.root.is_dir():
        with os.scandir(job.root) as entries:
            is_there = next(entries, None) is not None
    else:
        is_there = job.root.exists()
    if not is_there:
        raise BulkFailedError(
            f"{job.root} is not there, or empty; expected the input at one place on all machines"
        )


def _row(
    num_images: int, errors: Mapping[str, int], seconds: float, failure: str
) -> dict[str, Any]:
    document = json.dumps({"errors": dict(errors), "failure": failure})
    return {
        "num_images": np.array([num_images]),
        "seconds": np.array([seconds]),
        "document": np.array([document]),
    }


def do_units(job: Job, num_units: int, num_workers: int, *, on_gpu: bool) -> Iterator[Done]:
    """Does all units, in any order, on the Ray that this process is connected to.

    Args:
        job: For every worker.
        num_units: Numbered from 0.
        num_workers: At once.
        on_gpu: Whether each needs a GPU of its own.

    Yields:
        What came of a unit, as soon as its part is there.

    Raises:
        BulkFailedError: A worker cannot go on.
        RayError: Ray has ended.
    """
    import ray

    try:
        for batch in _finished(job, num_units, num_workers, on_gpu=on_gpu):
            yield from _read(batch)
    except (ray.exceptions.RayError, ConnectionError) as error:
        # `UnitsActor` catches what it raises itself: what is left is its way to there.
        if isinstance(error, ray.exceptions.RayActorError) and error.actor_init_failed:
            raise BulkFailedError(
                f"a worker could not be started: {str(error).strip().splitlines()[-1]}; expected "
                f"limelens[bulk] {job.version} on all machines"
            ) from error
        raise RayError(
            f"Ray ended in the middle: {first_line(error)}; the same command goes on"
        ) from error


def _finished(
    job: Job, num_units: int, num_workers: int, *, on_gpu: bool
) -> Iterator[Mapping[str, Any]]:
    """What `UnitsActor` returns, as it comes from a pool of them."""
    import ray.data

    # One block a unit, so that each is a task of its own.
    numbers = ray.data.from_items(list(range(num_units)), override_num_blocks=num_units)
    done = numbers.map_batches(
        UnitsActor,
        fn_constructor_args=(job,),
        batch_size=1,
        # A unit that waits at a busy worker could not go to an idle one.
        compute=ray.data.ActorPoolStrategy(
            size=min(num_workers, num_units), max_tasks_in_flight_per_actor=1
        ),
        num_cpus=job.num_threads,
        num_gpus=1 if on_gpu else 0,
    )
    return iter(done.iter_batches(batch_size=None, prefetch_batches=0))


def _read(batch: Mapping[str, Any]) -> Iterator[Done]:
    """Units of which `_row` wrote the rows.

    Raises:
        BulkFailedError: A worker says that it cannot go on.
    """
    columns = (batch["num_images"], batch["seconds"], batch["document"])
    for num_images, seconds, text in zip(*columns, strict=True):
        document = json.loads(str(text))
        if document["failure"]:
            raise BulkFailedError(document["failure"])
        yield Done(int(num_images), document["errors"], float(seconds))
