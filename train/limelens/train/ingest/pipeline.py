"""Turns a table of labelled URLs into cleaned, divided folders for `limelens train`.

Decides which images are kept, which are left out and why, and where they are written. `fetching`
turns a URL into bytes, `limelens.serve.image` bytes into pixels.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from PIL import Image

from limelens.serve.errors import InvalidImageError
from limelens.serve.fetching import Fetcher, FetchError, FetchLimits, identity, resolve
from limelens.serve.files import write_whole
from limelens.serve.folders import split_name, subfolders
from limelens.serve.image import read_image
from limelens.train.data.examples import DataError, Example
from limelens.train.data.near_duplicates import COPY, RELATED, first_of_kind, perceptual_hash
from limelens.train.data.splitting import SHARES, divide
from limelens.train.ingest.journal import GRID, Failure, Fetched, FetchedImage, open_fetched
from limelens.train.ingest.url_table import Row, read_table

STATE: Final = ".ingest"
LEFT_OUT: Final = "left_out.csv"
_JPEG_QUALITY: Final = 90
# Each may hold an image of the largest size, so memory bounds them.
_MOST_DECODERS: Final = 4


@dataclass(frozen=True)
class IngestConfig:
    """How a table is ingested.

    Raises:
        DataError: A number is too small.

    Args:
        size_px: Longer side of the written images; smaller ones keep their size.
        concurrency: URLs that are fetched at once.
        retry_failed: Retry URLs that failed permanently in an earlier run.
        seed: Of the division into splits.
    """

    size_px: int = 224
    concurrency: int = 16
    limits: FetchLimits = field(default_factory=FetchLimits)
    retry_failed: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size_px", "concurrency"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}; expected 1 or more")


class Progress(Protocol):
    """Follows an ingestion."""

    def table_read(self, num_urls: int, num_known: int) -> None:
        """The table was read: its URLs, and those known from an earlier run."""

    def url_done(self, url: str, reason: str | None) -> None:
        """A URL was tried; the reason is None if it gave an image."""


def ingest(
    table: Path, out: Path, config: IngestConfig | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Fetches the images of a table, cleans them and divides them into splits.

    `out` gets `train`, `val` and `test` (80:10:10 by label) with `LABEL/ID.jpg` in each, and
    `left_out.csv`, the rows without an image and why. Of copies only the first in the table stays;
    related images stay on one side of the split. The result depends on the table, the images and
    the seed, never on the order of responses.

    Fetched images are kept in `out/.ingest`: the next run fetches only what is missing or failed
    for a temporary reason. A longer table is divided anew. Other files in `out` stay.

    Args:
        table: As for `read_table`; `file:` and plain paths are relative to its folder.
        out: Created if missing.
        config: None takes the defaults.
        progress: Notified of every URL.

    Returns:
        `data`, `labels`, `num_images`, `splits` (images in each), `left_out` (number of rows),
        `table` (of the rows left out), `warnings` (problems that would keep training from
        starting). Without any image, the files of an earlier run stay.

    Raises:
        DataError: The table or a setting cannot be used, `out` holds splits that no ingest wrote,
            another process writes to it, or it cannot be written.
    """
    config = config or IngestConfig()
    rows = read_table(table)
    if table.resolve() == (out / LEFT_OUT).resolve():
        raise DataError(
            f"{table} lists what ingest left out; give the original table, and --retry-failed to "
            "retry failed URLs"
        )
    others = [one.name for one in subfolders(out) if split_name(one.name)] if out.is_dir() else []
    if others and not (out / STATE).exists():
        raise DataError(f"{out} holds {others[0]}, which no ingest wrote; expected a new folder")
    try:
        with open_fetched(out / STATE) as fetched:
            results = _fetch(rows, table.parent, fetched, config, progress)
            images, reasons = _clean(rows, results)
            splits = _split(images, config.seed)
            files = {
                f"{split}/{row.label}/{row.id}.jpg": fetched.path(images[row])
                for split, members in splits.items()
                for row in members
            }
            text = io.StringIO(newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(("line", "label", "id", "url", "reason"))
            writer.writerows(
                (row.line, row.label, row.id, row.url, reasons[row]) for row in reasons
            )
            write_whole(out / LEFT_OUT, text.getvalue())
            if files:
                _publish(out, files)
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror}") from error
    return {
        "data": str(out),
        "labels": sorted({row.label for row in images}),
        "num_images": len(images),
        "splits": {split: len(members) for split, members in splits.items()},
        "left_out": len(reasons),
        "table": str(out / LEFT_OUT),
        "warnings": _warnings(splits),
    }


def _fetch(
    rows: Sequence[Row],
    folder: Path,
    fetched: Fetched,
    config: IngestConfig,
    progress: Progress | None,
) -> list[FetchedImage | Failure]:
    """The result of each row's URL; a URL in several rows is fetched once."""
    image_way = f"JPEG {config.size_px} {_JPEG_QUALITY}"
    # A failure may be due to these limits: with others the URL is tried again.
    failure_way = f"{config.limits.max_bytes} {config.limits.max_redirects}"
    results: dict[str, FetchedImage | Failure] = {}
    missing: dict[str, str] = {}
    for row in rows:
        if row.url in results or row.url in missing:
            continue
        known: FetchedImage | Failure | None
        try:
            source = resolve(row.url, folder)
            known = fetched.get(identity(source), image_way)
            if known is None and not config.retry_failed:
                known = fetched.get(identity(source), failure_way)
        except FetchError as error:
            known = Failure(str(error))
        if known is None:
            missing[row.url] = source
        else:
            results[row.url] = known
    if progress:
        progress.table_read(len(results) + len(missing), len(results))

    urls = iter(missing)

    async def work(fetcher: Fetcher, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        for url in urls:
            key = identity(missing[url])
            result: FetchedImage | Failure
            try:
                data = await fetcher.fetch(missing[url])
                result = await loop.run_in_executor(pool, _convert, data, config.size_px, fetched)
            except (FetchError, InvalidImageError) as error:
                result = Failure(str(error), isinstance(error, FetchError) and error.transient)
            reason = result.reason if isinstance(result, Failure) else None
            fetched.record(key, image_way if reason is None else failure_way, result)
            results[url] = result
            if progress:
                progress.url_done(url, reason)

    async def fetch_all() -> None:
        with ThreadPoolExecutor(min(_MOST_DECODERS, os.cpu_count() or 1)) as pool:
            async with Fetcher(config.limits) as fetcher, asyncio.TaskGroup() as tasks:
                for _ in range(min(config.concurrency, len(missing))):
                    tasks.create_task(work(fetcher, pool))

    if missing:
        try:
            _run(fetch_all())
        except ExceptionGroup as group:
            # An error such as a full disk stops all; report the first.
            raise group.exceptions[0] from None
    return [results[row.url] for row in rows]


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine, even if a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(coroutine)
        return
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, coroutine).result()


def _convert(data: bytes, size_px: int, fetched: Fetched) -> FetchedImage:
    image = Image.fromarray(read_image(data))
    image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    jpeg = file.getvalue()
    # The written image is compared, not the one it was made from.
    return fetched.store(jpeg, perceptual_hash(read_image(jpeg), grid=GRID, frequencies=True))


def _clean(
    rows: Sequence[Row], results: Sequence[FetchedImage | Failure]
) -> tuple[dict[Row, FetchedImage], dict[Row, str]]:
    """Images to keep, in the table's order, and why each other row is left out."""
    reasons: dict[Row, str] = {}
    first_with: dict[str, Row] = {}
    distinct: dict[Row, FetchedImage] = {}
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, Failure):
            reasons[row] = result.reason
        elif (first_row := first_with.setdefault(result.digest, row)) != row:
            reasons[row] = f"the same image as {_named(first_row, row)}"
        else:
            distinct[row] = result
    order = list(distinct)
    firsts = first_of_kind([image.hash for image in distinct.values()], COPY)
    for index, first in enumerate(firsts):
        if index != first:
            row = order[index]
            reasons[row] = f"nearly the same image as {_named(order[first], row)}"
            del distinct[row]
    return distinct, {row: reasons[row] for row in rows if row in reasons}


def _named(first: Row, row: Row) -> str:
    other = f", which has the label {first.label!r}" if first.label != row.label else ""
    return f"{first.id!r} of line {first.line}{other}"


def _split(images: Mapping[Row, FetchedImage], seed: int) -> dict[str, list[Row]]:
    labels = sorted({row.label for row in images})
    row_of = {Path(row.label, row.id): row for row in images}
    examples = [Example(path, (labels.index(row.label),)) for path, row in row_of.items()]
    groups = first_of_kind([image.hash for image in images.values()], RELATED)
    splits = divide(examples, groups, SHARES, seed)
    return {split: [row_of[example.path] for example in chosen] for split, chosen in splits.items()}


def _publish(out: Path, files: Mapping[str, Path]) -> None:
    """Makes the split folders hold these files and no others of an earlier run."""
    written = out / STATE / "written.json"
    before = set(json.loads(written.read_bytes())) if written.exists() else set()
    # Written first: if this run is killed, the next one knows what to remove.
    write_whole(written, json.dumps(sorted(before | set(files))))
    for name in sorted(before - set(files)):
        path = out / name
        path.unlink(missing_ok=True)
        for folder in (path.parent, path.parent.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    for name, source in files.items():
        path = out / name
        if path.exists() and path.samefile(source):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            path.hardlink_to(source)
        except OSError:
            # Not every file system has hard links.
            beside = out / STATE / "copy.tmp"
            shutil.copyfile(source, beside)
            beside.replace(path)
    write_whole(written, json.dumps(sorted(files)))


def _warnings(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    counts = {split: Counter(row.label for row in members) for split, members in splits.items()}
    labels = sorted(set().union(*counts.values()))
    warnings = [
        f"label {label!r} has no image for {split}; limelens train needs one"
        for label in labels
        for split in ("train", "val")
        if not counts[split][label]
    ]
    if len(labels) == 1:
        warnings.append(f"{labels[0]!r} is the only label; limelens train needs two")
    return warnings
