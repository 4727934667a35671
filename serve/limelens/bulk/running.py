"""Runs a bulk: what is listed and not yet written is planned, done by Ray, and counted."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from limelens.bulk.decided import Decided
from limelens.bulk.output import (
    AGAIN,
    Output,
    OutputError,
    changed_files,
    open_output,
    read_written,
)
from limelens.bulk.plan import write_plan
from limelens.bulk.ray_session import ray_session
from limelens.bulk.ray_units import Job, do_units
from limelens.bulk.sources import InputError, Source
from limelens.bulk.unit import PLAN, Done, num_in_work
from limelens.bulk.work import WorkSpec
from limelens.bulk.workers import Workers

_EVERY_S: Final = 0.5


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        num_before: Images that were in the output when it began.
        num_done: Those since, units in work included.
        num_all: All images of the input.
        num_errors: Rows with an error, of this run.
        seconds: Since the first worker began.
    """

    num_before: int
    num_done: int
    num_all: int
    num_errors: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Images a second, of this run."""
        return self.num_done / self.seconds if self.seconds else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds that are left, if it goes on like this; None as long as nobody knows."""
        rate = self.per_second
        return (self.num_all - self.num_before - self.num_done) / rate if rate else None


@dataclass(frozen=True)
class Report:
    """What a run did.

    Args:
        num_images: In the input.
        num_before: Of them, in the output before.
        num_rows: In the output now.
        errors: How many rows have an error of each kind.
        decided: How the other rows were decided.
        seconds: That the work took, without listing.
    """

    num_images: int
    num_before: int
    num_rows: int
    errors: Mapping[str, int]
    decided: Decided
    seconds: float

    @property
    def per_second(self) -> float:
        """Images a second, of this run."""
        return (self.num_images - self.num_before) / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {
            "images": self.num_images,
            "done_before": self.num_before,
            "rows": self.num_rows,
            "errors": sum(self.errors.values()),
            "errors_by_kind": dict(self.errors),
            **self.decided.to_json(),
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.per_second, 3),
        }


def run_bulk(
    spec: WorkSpec,
    source: Source,
    folder: Path,
    made_by: Mapping[str, str],
    workers: Workers,
    *,
    unit_size: int,
    restart: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Does the work on all images of an input that are not in the output.

    Args:
        spec: The work.
        source: The input.
        folder: The output.
        made_by: What the work is, in words.
        workers: Who works.
        unit_size: Images in a file of the output: what is lost if a worker dies.
        restart: Removes what earlier runs wrote.
        on_progress: Called about twice a second, in this thread.

    Raises:
        InputError: There is no image.
        OutputError: As `open_output`; or rows are missing at the end.
        BulkFailedError, RayError: As `do_units`.
    """
    files = source.files
    may_grow = files and not source.is_one_file
    if may_grow and folder.resolve().is_relative_to(source.root.resolve()):
        raise OutputError(f"{folder} lies in the input; expected an --out beside it")
    with open_output(folder, source, spec.fingerprint(), made_by, restart=restart) as output:
        planned = write_plan(
            output.staging / PLAN, source.chunks(unit_size), output.written.digests
        )
        num_all = planned.num_images + planned.num_done
        if not num_all:
            raise InputError(f"{source.root} holds no images")
        tally = _Tally(output, planned.num_done, num_all)
        if planned.num_units:
            _run_units(spec, source, output, planned.num_units, workers, tally, on_progress)
        if changed := changed_files(files, source.files):
            raise OutputError(f"{folder}: the input changed meanwhile: {changed}; {AGAIN}")
        written = read_written(folder)
        missing = len(output.written.digests) + planned.num_images - len(written.digests)
        if missing:
            raise OutputError(f"{folder}: {missing} rows are missing; run the same command again")
        return Report(
            num_all,
            planned.num_done,
            len(written.digests),
            written.errors,
            written.decided,
            tally.seconds,
        )


@dataclass
class _Tally:
    """Counts what comes back."""

    output: Output
    num_before: int
    num_all: int
    num_done: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    begun: float | None = None
    seconds: float = 0.0

    def add(self, done: Done) -> None:
        self.num_done += done.num_images
        self.errors.update(done.errors)

    def progress(self) -> Progress:
        in_work = num_in_work(self.output.staging)
        if self.begun is None and (in_work or self.num_done):
            self.begun = time.monotonic()
        self.seconds = 0.0 if self.begun is None else time.monotonic() - self.begun
        return Progress(
            self.num_before,
            min(self.num_done + in_work, self.num_all - self.num_before),
            self.num_all,
            self.errors.total(),
            self.seconds,
        )


def _run_units(
    spec: WorkSpec,
    source: Source,
    output: Output,
    num_units: int,
    workers: Workers,
    tally: _Tally,
    on_progress: Callable[[Progress], None],
) -> None:
    on_progress(tally.progress())
    begun = time.monotonic()
    with ray_session(workers.address, workers.local_cpus, output.staging.parent / "ray"):
        placed = workers.placed()
        job = Job(
            spec,
            output.folder.absolute(),
            output.staging.absolute(),
            output.run,
            source.root.absolute(),
            source.column,
            placed.num_threads,
        )
        units = do_units(job, num_units, placed.num, on_gpu=placed.on_gpu)
        for done in _meanwhile(units, lambda: on_progress(tally.progress())):
            tally.add(done)
        if tally.begun is None:  # all was done before the first look
            tally.begun = begun
        on_progress(tally.progress())


def _meanwhile(units: Iterator[Done], look: Callable[[], None]) -> Iterator[Done]:
    """Units as they come, with a look at the progress twice a second between them."""
    waiting: queue.SimpleQueue[Done | BaseException | None] = queue.SimpleQueue()

    def consume() -> None:
        try:
            for done in units:
                waiting.put(done)
            waiting.put(None)
        except BaseException as error:
            waiting.put(error)

    threading.Thread(target=consume, daemon=True, name="limelens-bulk").start()
    next_look = time.monotonic()
    while True:
        found: Done | BaseException | None = None
        with contextlib.suppress(queue.Empty):
            found = waiting.get(timeout=max(0.0, next_look - time.monotonic()))
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found
        if time.monotonic() >= next_look:
            look()
            next_look = time.monotonic() + _EVERY_S
