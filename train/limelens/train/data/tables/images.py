"""Finds which column of a table names the images, and which folder holds them.

Looks for the files before it chooses; reads none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from limelens.serve.folders import subfolders
from limelens.serve.image import SUFFIXES
from limelens.train.data.examples import DataError
from limelens.train.data.tables.cells import is_flags
from limelens.train.data.tables.table import (
    IMAGE_NAMES,
    LABEL_NAMES,
    Table,
    TableOptions,
    check_header,
    named,
    no_header,
)

_MOST_TRIED: Final = 100
_FEWER_TRIED: Final = 10
_MANY_FOLDERS: Final = 20


def image_column(table: Table, options: TableOptions, taken: set[int | None]) -> tuple[int, Path]:
    """The column whose cells name existing files, and their folder."""
    if options.image_column:
        candidates = [table.column(options.image_column, "--image-column")]
    else:
        known = [table.lower.index(name) for name in IMAGE_NAMES if name in table.lower]
        unknown = [
            column
            for column, name in enumerate(table.lower)
            if name not in LABEL_NAMES
            and not is_flags(table.cells[column])
            and table.is_distinct(column)
        ]
        candidates = [one for one in dict.fromkeys((*known, *unknown)) if one not in taken]
        candidates = candidates or [0]
    found = _find_files(table, candidates, options.images)
    most = max((len(files) for files in found.values()), default=0)
    if not most:
        check_header(table, None)
        column = candidates[0]
        cell = next((cell for cell in table.cells[column] if cell), "")
        if cell.startswith(("http://", "https://")):
            raise DataError(
                f"{table.path} names images by address in {table.header[column]!r}; "
                "limelens ingest fetches them first"
            )
        folder = options.images or table.path.parent
        raise DataError(
            f"no image that the table names exists, such as {folder / cell}; looked for the "
            f"cells of {table.names(candidates)}; name the images' folder (--images) or the "
            "column (--image-column)"
        )
    best = {place: files for place, files in found.items() if 2 * len(files) > most}
    columns = list(dict.fromkeys(column for column, _ in best))
    if len({tuple(sorted(files.items())) for files in best.values()}) > 1:
        # If one of them has a usual name, it is meant.
        called = [one for one in columns if table.lower[one] in IMAGE_NAMES]
        columns = called if len(called) == 1 else columns
    if len(columns) > 1 and not _same_files(best, columns):
        raise DataError(
            f"{table.path} names images in {table.names(columns)}; expected one column: name it "
            "(--image-column)"
        )
    column = columns[0]
    folder = _one_folder(
        table, {place: files for (one, place), files in best.items() if one == column}
    )
    if find_image(folder, table.header[column]) and table.lower[column] not in IMAGE_NAMES:
        raise no_header(table)
    return column, folder


def _find_files(
    table: Table, candidates: Sequence[int], images: Path | None
) -> dict[tuple[int, Path], dict[int, Path]]:
    """Files that some rows name, by row, for each column and folder."""

    def found_in(folder: Path, most: int) -> dict[tuple[int, Path], dict[int, Path]]:
        found = {}
        for column in candidates:
            cells = table.cells[column]
            rows = range(0, len(cells), max(1, len(cells) // most))
            files = {row: file for row in rows if (file := find_image(folder, cells[row]))}
            if files:
                found[column, folder] = files
        return found

    if images is not None:
        return found_in(images, _MOST_TRIED)
    beside = table.path.parent
    found = found_in(beside, _MOST_TRIED)
    num_rows = len(table.cells[0])
    if any(2 * len(files) > min(num_rows, _MOST_TRIED) for files in found.values()):
        return found
    folders = subfolders(beside)
    most = _MOST_TRIED if len(folders) <= _MANY_FOLDERS else _FEWER_TRIED
    for folder in folders:
        found |= found_in(folder, most)
    return found


def _same_files(
    found: Mapping[tuple[int, Path], Mapping[int, Path]], columns: Sequence[int]
) -> bool:
    of_columns: list[dict[int, Path]] = [{} for _ in columns]
    for (column, _), files in found.items():
        if column in columns:
            of_columns[columns.index(column)] |= files
    rows = set.intersection(*(set(files) for files in of_columns))
    return bool(rows) and all(len({files[row] for files in of_columns}) == 1 for row in rows)


def _one_folder(table: Table, found: Mapping[Path, Mapping[int, Path]]) -> Path:
    if len(found) == 1 or table.path.parent in found:
        return table.path.parent if table.path.parent in found else next(iter(found))
    # train.csv means the folder train, even if another has files of these names.
    called = [folder for folder in found if folder.name.lower() == table.path.stem.lower()]
    if len(called) == 1:
        return called[0]
    raise DataError(
        f"the images that {table.path} names are in {named([one.name for one in found])}; name "
        "the folder that is meant (--images)"
    )


def find_image(folder: Path, identity: str) -> Path | None:
    """The file that a cell names, with or without suffix; None if there is none."""
    if not identity:
        return None
    for spelled in dict.fromkeys((identity, identity.replace("\\", "/"))):
        path = folder / spelled
        if _is_file(path):
            return path
        for suffix in sorted(SUFFIXES):
            for ending in (suffix, suffix.upper()):
                beside = path.with_name(path.name + ending) if path.name else path
                if _is_file(beside):
                    return beside
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        # Too long for a name, or with a zero byte.
        return False
