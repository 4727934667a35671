"""Reads a table of labelled URLs and checks it before anything is fetched.

Knows columns, lines and valid names of folders and files; does not know the web.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limelens.serve.folders import label_name
from limelens.serve.wording import counted, listed
from limelens.train.data.examples import DataError

COLUMNS: Final = ("label", "id", "url")
_LONGEST_NAME: Final = 255
"""Bytes of a file's name on common file systems."""


@dataclass(frozen=True)
class Row:
    """One wanted image.

    Args:
        line: Where its row begins in the table, from 1.
        label: The folder's name.
        id: The file's name without suffix; unique.
        url: As in the table, not checked.
    """

    line: int
    label: str
    id: str
    url: str


def read_table(path: Path) -> tuple[Row, ...]:
    """Reads a table of images.

    Args:
        path: UTF-8, with tabs (if the first line has one) or commas between columns; the first
            line names them, `label`, `id` and `url` among them, in any order. Labels and ids are
            brought to Unicode's composed form, so that names that look equal are equal.

    Raises:
        DataError: The file cannot be read, lacks a column or has no row; a row has too few or
            too many cells, a label or id that cannot name a folder or file, or a repeated id.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; expected a tsv or csv with the columns {', '.join(COLUMNS)}"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} line {line}: not UTF-8 ({error.reason}); save it as such"
        ) from None
    lines = _cells(path, text)
    if not lines:
        raise DataError(f"{path} is empty; expected the columns {', '.join(COLUMNS)}")
    columns = _columns(path, *lines[0])
    if len(lines) == 1:
        raise DataError(f"{path} has a header and no row under it")
    rows: list[Row] = []
    problems: list[str] = []
    lines_of: dict[str, int] = {}
    num_cells = len(lines[0][1])
    for line, cells in lines[1:]:
        if len(cells) != num_cells:
            problems.append(
                f"line {line}: {counted(len(cells), 'cell')}; expected {num_cells} as in the "
                "header (a cell that holds the separator needs quotes)"
            )
            continue
        label, name, url = (cells[columns[column]].strip() for column in COLUMNS)
        row = Row(line, label_name(label), label_name(name), url)
        problem = _name_problem("label", row.label) or _name_problem("id", row.id, ".jpg")
        if problem is None and row.id in lines_of:
            problem = f"id {row.id!r} is already in line {lines_of[row.id]}; ids must differ"
        if problem is not None:
            problems.append(f"line {line}: {problem}")
        lines_of.setdefault(row.id, line)
        rows.append(row)
    if problems:
        raise DataError(f"{path} {listed(problems, most=5)}")
    return tuple(rows)


def _cells(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """The cells of each line that is not blank, with the line's number."""
    first = text.lstrip().partition("\n")[0]
    delimiter = next((one for one in "\t,;" if one in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines = []
    begun = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((begun, cells))
            begun = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {begun}: {error}") from None
    return lines


def _columns(path: Path, line: int, header: list[str]) -> dict[str, int]:
    names = [cell.strip().lower() for cell in header]
    for column in COLUMNS:
        if names.count(column) != 1:
            found = "twice" if column in names else "missing"
            raise DataError(
                f"{path} line {line}: the column {column} is {found}; found "
                f"{', '.join(repr(cell[:40]) for cell in header[:8])}; "
                f"expected {', '.join(COLUMNS)}"
            )
    return {column: names.index(column) for column in COLUMNS}


def _name_problem(what: str, name: str, suffix: str = "") -> str | None:
    """Why a name cannot be that of a folder, or of a file with a suffix; None if it can be."""
    kind = "file" if suffix else "folder"
    shown = repr(name if len(name) <= 60 else name[:60] + "…")
    refused = f"{what} {shown} cannot name a {kind}"
    if not name:
        return f"{what} is empty"
    if name.startswith("."):
        return f"{refused}: it begins with a dot"
    for character in name:
        if character in "/\\" or unicodedata.category(character) == "Cc":
            return f"{refused}: it holds {character!r}"
    length = len((name + suffix).encode())
    if length > _LONGEST_NAME:
        return f"{refused}: {length} bytes with its suffix; at most {_LONGEST_NAME}"
    return None
