"""Tables in Parquet: a column of encoded images, or of their paths and URLs.

Of a column of images only the numbers of rows are read here; paths and URLs are read whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from limelens.bulk.sources.item import InputError, Item, Place
from limelens.bulk.sources.source import Source, in_chunks, shown
from limelens.serve.fetching import FetchError, file_of, resolve
from limelens.serve.wording import first_line

_USUAL: Final = (
    "image", "images", "img", "jpg", "jpeg", "png", "webp", "bytes", "content", "url", "image_url",
    "uri", "path", "image_path", "file", "file_name", "filename",
)  # fmt: skip
"""Names of columns, the most likely first."""
_MOST_PIECES: Final = 16
"""Of a row group: each is read from its beginning, so that many pieces would read it many times."""


class Tables(Source):
    """Parquet files, with a column of images, or of their paths or URLs."""

    kind = "table"

    def chunks(self, most: int) -> Iterator[list[Item]]:
        """See `Source`."""
        for name in self.names:
            path = self.root.absolute() / name
            try:
                with pq.ParquetFile(path) as table:
                    kind = _kind(table.schema_arrow, self.column)
                    if kind == "":
                        raise InputError(_without(self.column, table.schema_arrow))
                    if kind == "text":
                        yield from in_chunks(self._texts(name, table), most)
                    else:
                        for first, stop in _pieces(table.metadata, most):
                            yield [_row(name, path, row) for row in range(first, stop)]
            except (pa.ArrowException, OSError, InputError) as error:
                reason = f"the table cannot be read: {first_line(error)}"
                yield [Item(shown(name), os.fsencode(name) + b"\0all", Place.NOWHERE, error=reason)]

    def _texts(self, name: str, table: Any) -> Iterator[Item]:
        folder = (self.root / name).absolute().parent
        row = 0
        for batch in table.iter_batches(columns=[self.column]):
            for text in _as_texts(batch.column(0)):
                yield _text_item(name, folder, row, text)
                row += 1


def usual_column(path: Path) -> str:
    """The column that holds images, or their paths or URLs.

    Raises:
        InputError: There is none, or the file cannot be read.
    """
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file: {first_line(error)}") from error
    kinds = {field.name: kind for field in schema if (kind := _kind(schema, field.name))}
    for name in _USUAL:
        if name in kinds:
            return name
    encoded: list[str] = [name for name, kind in kinds.items() if kind != "text"]
    if len(encoded) == 1:
        return encoded[0]
    raise InputError(f"{path}: {_without('', schema)}")


def _without(column: str, schema: Any) -> str:
    found = ", ".join(f"{field.name} ({field.type})" for field in schema)
    missing = f"no column {column!r} of images, paths or URLs" if column else "no column of images"
    return f"{missing}; found {found}; name one with --column"


def _kind(schema: Any, column: str) -> str:
    """Of a column: `bytes`, `struct` (with bytes in it), `text`, or empty if it is of no use."""
    index = schema.get_field_index(column)
    if index < 0:
        return ""
    kind = schema.field(index).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_bytes(kind):
        return "bytes"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    # As Hugging Face writes images.
    index = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    return "struct" if index >= 0 and _is_bytes(kind.field(index).type) else ""


def _is_bytes(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _pieces(metadata: Any, most: int) -> Iterator[tuple[int, int]]:
    """First row and the one after the last: small row groups together, large ones in pieces."""
    begun = end = 0
    for group in range(metadata.num_row_groups):
        num_rows = metadata.row_group(group).num_rows
        if end > begun and end - begun + num_rows > most:
            yield begun, end
            begun = end
        end += num_rows
        if num_rows > most:
            step = max(most, -(-num_rows // _MOST_PIECES))
            yield from ((at, min(at + step, end)) for at in range(begun, end, step))
            begun = end
    if end > begun:
        yield begun, end


def _row(name: str, path: Path, row: int) -> Item:
    return Item(
        f"{shown(name)}#{row}",
        b"%s\0%d" % (os.fsencode(name), row),
        Place.ROW,
        os.fsencode(path),
        row,
    )


def _as_texts(column: Any) -> list[str | bytes | None]:
    """The values of a column of text; those that are not UTF-8 as bytes."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return [_as_text(value) for value in column.cast(pa.large_binary()).to_pylist()]


def _as_text(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def _text_item(name: str, folder: Path, row: int, text: str | bytes | None) -> Item:
    identity = b"%s\0%d" % (os.fsencode(name), row)
    if isinstance(text, bytes):
        called = text.decode(errors="backslashreplace")
        return Item(called, identity, Place.NOWHERE, error="not UTF-8")
    called = text or f"{shown(name)}#{row}"
    try:
        url = resolve((text or "").strip(), folder)
    except (FetchError, ValueError) as error:
        return Item(called, identity, Place.NOWHERE, error=first_line(error))
    path = file_of(url)
    if path is None:
        return Item(called, identity, Place.URL, url.encode(errors="surrogateescape"))
    return Item(called, identity, Place.FILE, os.fsencode(path))
