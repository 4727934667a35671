"""Writes events as CSV, lines of JSON or Parquet, however many there are.

It knows formats, and nothing of how events are stored.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final, Literal, get_args

from limelens.serve.errors import MissingExtraError
from limelens.watch.record.errors import RecordError
from limelens.watch.record.recorded import RecordedEvent

ExportFormat = Literal["csv", "jsonl", "parquet"]
_ROWS: Final = 10_000
_FORMULA: Final = ("=", "+", "-", "@")
_TEXTS: Final = (
    "id", "camera_id", "type", "state", "previous", "reason", "detail", "label", "model",
    "provider", "right_label", "corrected_by",
)  # fmt: skip
_WHOLE: Final = ("sequence", "person", "people", "frame_id", "version")
_TIMES: Final = ("time", "capture_time", "corrected")
_FLAGS: Final = ("evidence", "thumbnail", "frame", "overlay", "explanation")
COLUMNS: Final = (
    "id", "camera_id", "sequence", "type", "time", "state", "previous", "reason", "detail",
    "label", "probability", "votes", "person", "people", "frame_id", "capture_time", "position_s",
    "model", "version", "provider", "evidence", "thumbnail", "frame", "overlay", "explanation",
    "right_label", "corrected_by", "corrected",
)  # fmt: skip
"""Of CSV and Parquet."""


def export(events: Iterable[RecordedEvent], file: BinaryIO, form: ExportFormat) -> int:
    """Writes events into an open file.

    Args:
        events: In the order in which they are written.
        file: Takes bytes.
        form: `csv` with a head, `jsonl` with a document a line, or `parquet`.

    Returns:
        How many were written.

    Raises:
        MissingExtraError: Parquet without the extra `parquet`.
        RecordError: There is no such format.
        OSError: The file cannot be written.
    """
    write = _WRITERS.get(form)
    if write is None:
        raise RecordError(f"no format {form!r}; expected {', '.join(get_args(ExportFormat))}")
    counted = _Counted(events)
    write(counted, file)
    return counted.number


class _Counted:
    def __init__(self, events: Iterable[RecordedEvent]) -> None:
        self._events = events
        self.number = 0

    def __iter__(self) -> Iterator[RecordedEvent]:
        for event in self._events:
            self.number += 1
            yield event


def _write_csv(events: Iterable[RecordedEvent], file: BinaryIO) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for event in events:
            row = _row(event)
            writer.writerow([_cell(name, row[name]) for name in COLUMNS])
    finally:
        text.detach()  # the file stays open


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if name in _TIMES:
        return str(value.isoformat(timespec="milliseconds"))
    if name == "votes":
        return json.dumps(value, ensure_ascii=False)
    if name in _TEXTS and _is_calculated(str(value)):
        return f"'{value}"
    return str(value)


def _is_calculated(text: str) -> bool:
    """Whether a spreadsheet might calculate it, some also behind spaces or in wide letters."""
    start = unicodedata.normalize("NFKC", text.lstrip()[:1])
    return text != text.lstrip() or start.startswith(_FORMULA)


def _write_jsonl(events: Iterable[RecordedEvent], file: BinaryIO) -> None:
    for event in events:
        file.write(json.dumps(event.document()).encode() + b"\n")


def _write_parquet(events: Iterable[RecordedEvent], file: BinaryIO) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise MissingExtraError(
            "Parquet needs pyarrow; pip install 'limelens[parquet]', or export csv or jsonl"
        ) from None
    kinds = {
        **dict.fromkeys(_TEXTS, pa.string()),
        **dict.fromkeys(_WHOLE, pa.int64()),
        **dict.fromkeys(_TIMES, pa.timestamp("ms", tz="UTC")),
        **dict.fromkeys(_FLAGS, pa.bool_()),
        "probability": pa.float64(),
        "position_s": pa.float64(),
        "votes": pa.map_(pa.string(), pa.int64()),
    }
    schema = pa.schema([(name, kinds[name]) for name in COLUMNS])
    rows = iter(events)
    with pq.ParquetWriter(file, schema) as writer:
        while some := [_row(event) for event in itertools.islice(rows, _ROWS)]:
            for row in some:
                row["votes"] = list(row["votes"].items())
            writer.write_table(pa.Table.from_pylist(some, schema))


def _row(found: RecordedEvent) -> dict[str, Any]:
    event, correction = found.event, found.correction
    return {
        **{name: getattr(event, name) for name in COLUMNS[:20] if name != "votes"},
        "type": event.type.value,
        "state": event.state.value,
        "previous": event.previous.value,
        "votes": found.votes,
        **{name: getattr(found, f"has_{name}") for name in _FLAGS},
        "right_label": None if correction is None else correction.label,
        "corrected_by": None if correction is None else correction.by,
        "corrected": None if correction is None else correction.time,
    }


_WRITERS: Final[dict[str, Callable[[Iterable[RecordedEvent], BinaryIO], None]]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}
