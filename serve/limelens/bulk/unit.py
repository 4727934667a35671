"""Does one unit of work in this process: reads its images, has the model at them, writes its part.

A note beside the parts says at any moment which images are with the model. If the process dies,
whoever does the unit again takes those images one by one; an image on which the process died twice
more is given up, with a row that says so. It knows neither Ray nor the model.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import pyarrow as pa

from limelens.bulk.part import Footer, part_name, read_footer, write_part
from limelens.bulk.plan import Plan
from limelens.bulk.sources import Item, Reader
from limelens.bulk.work import BulkImage, Work
from limelens.serve.errors import (
    BundleError,
    LimelensError,
    MissingExtraError,
    ProviderError,
)
from limelens.serve.files import naming
from limelens.serve.tools.ordered_prefetch import in_order
from limelens.serve.wording import first_line

PLAN: Final = "plan.arrow"
NOTES: Final = "*.note"
_MOST_DEATHS: Final = 2
_FAILURES_OF_ALL: Final = 8
_LOST: Final = f"the worker died {_MOST_DEATHS + 1} times on this image: crashed, or out of memory"


class TakenOverError(LimelensError):
    """Another run has taken the output over; this one's work is not wanted any more."""


@dataclass(frozen=True)
class Done:
    """What came of a unit: its images, how many errors of each kind, and seconds."""

    num_images: int
    errors: Mapping[str, int]
    seconds: float


class Units:
    """Does the units of one run.

    Args:
        out: The folder of the parts.
        staging: The run's own folder, with its plan.
        run: Its number.
        work: The model.
        schema: Of the rows.
        reader: Reads images.
    """

    def __init__(
        self, out: Path, staging: Path, run: int, work: Work, schema: pa.Schema, reader: Reader
    ) -> None:
        self._out = out
        self._staging = staging
        self._run = run
        self._work = work
        self._schema = schema
        self._reader = reader
        try:
            self._plan = Plan(staging / PLAN)
        except FileNotFoundError:
            raise _taken_over(staging) from None

    def do(self, number: int) -> Done:
        """Does a unit, unless its part is there.

        Raises:
            TakenOverError: Another run uses the output now.
            LimelensError: The model fails on whatever it is given.
            OSError: The part cannot be written.
        """
        begun = time.monotonic()
        path = self._out / part_name(self._run, number)
        if path.exists():  # done before, but the driver was not told
            return _done(read_footer(path), 0.0)
        items = self._plan.unit(number)
        note = _Note(self._staging / f"{number:06d}.note")
        try:
            rows = list(itertools.chain.from_iterable(self._rows(items, note.opened())))
            footer = write_part(
                path, self._staging / f"{path.name}.{os.getpid()}", items, rows, self._schema
            )
        except FileNotFoundError:
            if self._staging.exists():
                raise
            raise _taken_over(self._staging) from None
        note.remove()
        return _done(footer, time.monotonic() - begun)

    def _rows(self, items: Sequence[Item], note: _Note) -> Iterator[Iterable[Mapping[str, Any]]]:
        tally = _Tally()
        for batch, images in self._read(items, note):
            note.begin(batch.start, batch.stop)
            yield self._done_with(images, tally)
        if tally.is_hopeless:
            raise LimelensError(f"the model failed on each of {tally.failed} images: {tally.last}")

    def _read(self, items: Sequence[Item], note: _Note) -> Iterator[tuple[range, list[BulkImage]]]:
        """Batches and their images, read while the model has the batch before."""
        batches = note.batches(len(items), self._work.batch_size)

        def read(batch: range) -> tuple[range, list[BulkImage]]:
            images = self._reader.read([items[at] for at in batch if at not in note.lost])
            found = iter(images)
            return batch, [
                BulkImage(items[at].name, None, _LOST) if at in note.lost else next(found)
                for at in batch
            ]

        if not note.is_again:
            yield from in_order(read, batches, 1)
            return
        # Reading may be what kills: then the note must say whose turn it is.
        for batch in batches:
            note.begin(batch.start, batch.stop)
            yield read(batch)

    def _done_with(self, images: Sequence[BulkImage], tally: _Tally) -> list[Mapping[str, Any]]:
        """The rows of a batch; if the model fails, each image is tried alone."""
        try:
            rows = list(self._work(images))
            if len(rows) != len(images):
                raise LimelensError(f"{len(rows)} rows for {len(images)} images")
        except (BundleError, MissingExtraError, ProviderError):
            raise
        except Exception as error:
            if len(images) > 1:
                return [row for image in images for row in self._done_with([image], tally)]
            if images[0].data is None:  # not the image's fault
                raise
            tally.failed += 1
            tally.last = first_line(error)
            failure = f"{type(error).__name__}: {first_line(error)}"
            return list(self._work([BulkImage(images[0].path, None, failure)]))
        tally.worked += len(images)
        return rows


@dataclass
class _Tally:
    """How many images the model took, and on how many it failed."""

    worked: int = 0
    failed: int = 0
    last: str = ""

    @property
    def is_hopeless(self) -> bool:
        return self.failed >= _FAILURES_OF_ALL and not self.worked


@dataclass
class _Note:
    """What a unit's worker is at, for the one that comes after its death."""

    path: Path
    begun: int = 0
    stop: int = 0
    deaths: dict[int, int] = field(default_factory=dict)
    is_again: bool = False

    def opened(self) -> Self:
        """Reads what an earlier worker left, and counts its death."""
        try:
            left = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return self
        self.is_again = True
        self.deaths = {int(at): count for at, count in left["deaths"].items()}
        doing = range(left["begun"], left["stop"])
        for at in doing:
            # In a batch nobody knows whose fault it was.
            self.deaths[at] = self.deaths.get(at, 0) + (len(doing) == 1)
        self.begin(0, 0)
        return self

    @property
    def lost(self) -> frozenset[int]:
        """Images that are given up."""
        return frozenset(at for at, count in self.deaths.items() if count >= _MOST_DEATHS)

    def batches(self, num_images: int, most: int) -> Iterator[range]:
        """All images, those that a worker died with alone."""
        at = 0
        while at < num_images:
            stop = at + 1
            while (
                at not in self.deaths
                and stop < min(at + most, num_images)
                and stop not in self.deaths
            ):
                stop += 1
            yield range(at, stop)
            at = stop

    def begin(self, begun: int, stop: int) -> None:
        self.begun, self.stop = begun, stop
        document = {"begun": begun, "stop": stop, "deaths": self.deaths}
        beside = self.path.with_suffix(".new")
        with naming(self.path):
            beside.write_text(json.dumps(document))
        beside.replace(self.path)

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def num_in_work(staging: Path) -> int:
    """How many images of units that are not finished are done already."""
    num_images = 0
    for path in staging.glob(NOTES):
        with contextlib.suppress(OSError, ValueError):
            num_images += int(json.loads(path.read_bytes())["begun"])
    return num_images


def _done(footer: Footer, seconds: float) -> Done:
    return Done(len(footer.digests), footer.errors, seconds)


def _taken_over(staging: Path) -> TakenOverError:
    return TakenOverError(
        f"{staging} is gone: it was removed, another run took the output over, or this machine "
        "does not share it"
    )
