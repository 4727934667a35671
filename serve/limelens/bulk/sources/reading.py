"""Reads the bytes of images, wherever they are; what cannot be read has its reason instead."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from limelens.bulk.sources.item import Item, Place
from limelens.bulk.work import BulkImage
from limelens.serve.fetching import Fetcher, FetchError, FetchLimits, read_file
from limelens.serve.wording import first_line

_AT_ONCE: Final = 8
_URLS_AT_ONCE: Final = 16
_ROWS: Final = 32


class Reader:
    """Reads images; keeps its place in a table, so that rows in order are read once.

    Args:
        column: Of tables.
        limits: Of each image, for files as for URLs.
    """

    def __init__(self, column: str = "", limits: FetchLimits | None = None) -> None:
        self._column = column
        self._limits = limits or FetchLimits(max_bytes=100_000_000)
        self._threads = ThreadPoolExecutor(_AT_ONCE, "limelens-read")
        self._rows: _Rows | None = None
        self._web: _Web | None = None

    def close(self) -> None:
        """Ends its threads and connections."""
        self._threads.shutdown()
        if self._web is not None:
            self._web.close()

    def read(self, items: Sequence[Item]) -> list[BulkImage]:
        """The images in their order; from one thread at a time."""
        urls = [item for item in items if item.place is Place.URL]
        fetched = iter(self._fetch(urls) if urls else ())
        files = iter(self._threads.map(self._read_file, (
            item for item in items if item.place in (Place.FILE, Place.PART)
        )))  # fmt: skip
        images = []
        for item in items:
            if item.place is Place.URL:
                images.append(next(fetched))
            elif item.place is Place.ROW:
                images.append(self._read_row(item))
            elif item.place is Place.NOWHERE:
                images.append(BulkImage(item.name, None, item.error))
            else:
                images.append(next(files))
        return images

    def _read_file(self, item: Item) -> BulkImage:
        path = Path(os.fsdecode(item.file))
        most = self._limits.max_bytes
        if item.file.endswith(os.fsencode(os.sep)):
            return BulkImage(item.name, None, "a folder that cannot be listed")
        try:
            if item.place is Place.FILE:
                return BulkImage(item.name, read_file(path, most))
            if item.size_bytes > most:
                raise FetchError(f"{item.size_bytes:,} bytes; the limit is {most:,}")
            with path.open("rb") as shard:
                data = os.pread(shard.fileno(), item.size_bytes, item.position)
        except (OSError, FetchError) as error:
            return BulkImage(item.name, None, first_line(error))
        if len(data) < item.size_bytes:
            return BulkImage(item.name, None, "the shard ends within it")
        return BulkImage(item.name, data)

    def _read_row(self, item: Item) -> BulkImage:
        try:
            if self._rows is None or not self._rows.leads_to(item):
                self._rows = _Rows(item.file, item.position, self._column)
            data = self._rows.read(item.position)
        except (pa.ArrowException, OSError) as error:
            self._rows = None
            return BulkImage(item.name, None, f"the row cannot be read: {first_line(error)}")
        except (LookupError, UnicodeDecodeError, StopIteration):
            self._rows = None
            return BulkImage(item.name, None, "the table has changed since it was listed")
        if data is None:
            return BulkImage(item.name, None, f"the column {self._column} is empty there")
        if len(data) > self._limits.max_bytes:
            return BulkImage(
                item.name, None, f"{len(data):,} bytes; the limit is {self._limits.max_bytes:,}"
            )
        return BulkImage(item.name, data)

    def _fetch(self, items: Sequence[Item]) -> list[BulkImage]:
        if self._web is None:
            self._web = _Web(self._limits)
        return self._web.fetch(items)


class _Web:
    """Fetches URLs; what one batch of them has connected to, the next one need not."""

    def __init__(self, limits: FetchLimits) -> None:
        self._runner = asyncio.Runner()
        self._fetcher = Fetcher(limits)

    def fetch(self, items: Sequence[Item]) -> list[BulkImage]:
        return self._runner.run(self._fetch(items))

    def close(self) -> None:
        self._runner.run(self._fetcher.aclose())
        self._runner.close()

    async def _fetch(self, items: Sequence[Item]) -> list[BulkImage]:
        turns = asyncio.Semaphore(_URLS_AT_ONCE)

        async def fetch(item: Item) -> BulkImage:
            async with turns:
                try:
                    return BulkImage(item.name, await self._fetcher.fetch(item.file.decode()))
                except (FetchError, UnicodeDecodeError) as error:
                    return BulkImage(item.name, None, first_line(error))

        return await asyncio.gather(*map(fetch, items))


class _Rows:
    """Goes through the rows of one row group, from a row on."""

    def __init__(self, file: bytes, row: int, column: str) -> None:
        self._file = file
        self._table = pq.ParquetFile(os.fsdecode(file))
        self._begun = self._stop = 0
        for group in range(self._table.metadata.num_row_groups):
            self._begun = self._stop
            self._stop += self._table.metadata.row_group(group).num_rows
            if row < self._stop:
                break
        else:
            raise pa.ArrowInvalid(f"the table has {self._stop} rows")
        self._batches: Iterator[Any] = self._table.iter_batches(
            batch_size=_ROWS, row_groups=[group], columns=[column], use_threads=False
        )
        self._batch_begun = self._batch_stop = self._begun
        self._batch: Any = None

    def leads_to(self, item: Item) -> bool:
        """Whether a row has not been passed."""
        return item.file == self._file and self._batch_begun <= item.position < self._stop

    def read(self, row: int) -> bytes | None:
        while row >= self._batch_stop:
            self._batch = next(self._batches).column(0)
            self._batch_begun = self._batch_stop
            self._batch_stop += len(self._batch)
        value = self._batch[row - self._batch_begun].as_py()
        if isinstance(value, dict):
            value = value["bytes"]
        return value if isinstance(value, bytes) else None
