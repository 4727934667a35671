"""A file of the output: the rows of one unit, and in its footer which images they are of."""

from __future__ import annotations

import base64
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from limelens.bulk.decided import Decided
from limelens.bulk.sources import Item
from limelens.serve.files import naming, sync_folder

_IMAGES: Final = b"limelens.images"
_ERRORS: Final = b"limelens.errors"
_DECIDED: Final = b"limelens.decided"
_PART: Final = re.compile(r"part-\d{4,}-\d{6,}\.parquet")


@dataclass(frozen=True)
class Footer:
    """What a part says of itself.

    Args:
        digests: `(N,)` of its images.
        errors: How many rows have an error, by `error_code`.
        decided: How the others were decided.
    """

    digests: NDArray[np.uint64]
    errors: Mapping[str, int]
    decided: Decided


def part_name(run: int, unit: int) -> str:
    """The name of a unit's file; no two runs share one."""
    return f"part-{run:04d}-{unit:06d}.parquet"


def parts_in(folder: Path) -> list[Path]:
    """The parts that are whole, by name."""
    with os.scandir(folder) as entries:
        return sorted(folder / one.name for one in entries if _PART.fullmatch(one.name))


def write_part(
    path: Path,
    beside: Path,
    items: Sequence[Item],
    rows: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
) -> Footer:
    """Writes a part, which appears whole or not at all.

    Args:
        path: The part.
        beside: Where it is written before, on the same file system.
        items: The images.
        rows: One an image, in their order.
        schema: Of the rows.

    Raises:
        FileNotFoundError: The folder of `beside` is gone: another run has taken over.
        OSError: It cannot be written.
    """
    digests = np.array([item.digest for item in items], np.uint64)
    errors = Counter(str(row.get("error_code") or "ERROR") for row in rows if row.get("error"))
    decided = Decided.of(rows)
    metadata = {
        **(schema.metadata or {}),
        _IMAGES: base64.b64encode(digests.astype("<u8").tobytes()),
        _ERRORS: json.dumps(errors).encode(),
        _DECIDED: json.dumps(decided.to_json()).encode(),
    }
    table = pa.Table.from_pylist(list(rows), schema=schema.with_metadata(metadata))
    with naming(path), beside.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)
    return Footer(digests, errors, decided)


def read_footer(path: Path) -> Footer:
    """What a part says of itself.

    Raises:
        pa.ArrowException, ValueError: It is damaged, or no part.
        OSError: It cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata or {}
            num_rows = file.metadata.num_rows
    except OSError as error:
        if error.errno is None:  # pyarrow's own, of what it read
            raise ValueError(f"{path}: {error}") from error
        raise
    if _IMAGES not in metadata:
        raise ValueError("it does not say which images it is of")
    digests = np.frombuffer(base64.b64decode(metadata[_IMAGES]), "<u8").astype(np.uint64)
    if len(digests) != num_rows:
        raise ValueError(f"{num_rows} rows of {len(digests)} images")
    return Footer(
        digests,
        json.loads(metadata.get(_ERRORS, b"{}")),
        Decided.from_json(json.loads(metadata.get(_DECIDED, b"{}"))),
    )
