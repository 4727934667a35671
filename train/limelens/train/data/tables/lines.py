"""Reads the lines of a csv or tsv file, whatever separates its cells."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

from limelens.train.data.examples import DataError

_SEPARATORS: Final = (",", "\t", ";")


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, each with the number of its last line in the file.

    The suffix gives the separator (tabs for `.tsv`, else commas); a first line without it may have
    commas, tabs or semicolons.

    Raises:
        DataError: The file cannot be read as a table in UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            separator = _separator(path, file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=separator != "\t")
            return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table in UTF-8: {error}") from error


def _separator(path: Path, first: str) -> str:
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    for separator in (usual, *_SEPARATORS):
        if len(next(csv.reader([first], delimiter=separator), [])) > 1:
            return separator
    return usual
