"""Reads a csv or tsv file: its cells by column, and the options that say what they are.

Knows the usual names of columns; `columns` decides what they mean.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limelens.serve.image import SUFFIXES
from limelens.serve.wording import listed
from limelens.train.data.examples import DataError

IMAGE_NAMES: Final = ("id", "image", "image_id", "path", "file", "filename", "file_name", "name")
LABEL_NAMES: Final = (
    "labels", "label", "genres", "genre", "tags", "tag", "classes", "class", "class_name",
    "categories", "category", "targets", "target",
)  # fmt: skip
SPLIT_NAMES: Final = ("split", "set", "subset", "partition", "phase")
_SEPARATORS: Final = (",", "\t", ";")
_ALMOST: Final = 0.9
_ENOUGH_ROWS: Final = 10


@dataclass(frozen=True)
class TableOptions:
    """How to read a table; unset options are detected from the table.

    Args:
        images: The folder of the images.
        image_column: The column that names the image.
        label_column: The column that holds one label or a list.
        columns: The columns of yes and no whose names are the labels, or `("all",)`.
        separator: Between the labels of a cell; `none` takes a cell as one label.
    """

    images: Path | None = None
    image_column: str = ""
    label_column: str = ""
    columns: tuple[str, ...] = ()
    separator: str = ""


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, each with the number of its last line in the file.

    The suffix gives the separator (tabs for `.tsv`, else commas); a first line without it may have
    commas, tabs or semicolons.

    Raises:
        DataError: The file cannot be read as a table in UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first, usual = file.readline(), "\t" if path.suffix.lower() == ".tsv" else ","
            for separator in (usual, *_SEPARATORS, usual):
                if len(next(csv.reader([first], delimiter=separator), [])) > 1:
                    break
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=separator != "\t")
            return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table in UTF-8: {error}") from error


class Table:
    """A table's cells by column."""

    def __init__(self, path: Path, header: Sequence[str], body: Sequence[Sequence[str]]) -> None:
        self.path = path
        self.header = header
        self.lower = [name.lower() for name in header]
        self.cells = [[row[column].strip() for row in body] for column in range(len(header))]

    def column(self, name: str, option: str) -> int:
        """The number of a column that an option names."""
        for names, wanted in ((self.header, name), (self.lower, name.lower())):
            if names.count(wanted) == 1:
                return names.index(wanted)
        found = "two columns" if self.lower.count(name.lower()) > 1 else "no column"
        raise DataError(
            f"{self.path} has {found} {name!r} ({option}); its columns are {named(self.header)}"
        )

    def names(self, columns: Sequence[int]) -> str:
        """Columns as messages name them."""
        return named([self.header[column] for column in columns])

    def is_distinct(self, column: int) -> bool:
        """Whether hardly any cell of a column repeats, as with file names."""
        return len({*self.cells[column]}) >= _ALMOST * len(self.cells[column])

    def is_of_each_row(self, column: int) -> bool:
        """Whether a column differs from row to row, as titles and numbers do: not a label."""
        return len(self.cells[column]) >= _ENOUGH_ROWS and self.is_distinct(column)


def check_header(table: Table, label: int | None) -> None:
    """Refuses a first line that is no header."""
    if any(name in (*IMAGE_NAMES, *LABEL_NAMES, *SPLIT_NAMES) for name in table.lower):
        return
    is_image = any(Path(name).suffix in SUFFIXES for name in table.lower)
    if is_image or (label is not None and table.header[label] in table.cells[label]):
        raise no_header(table)


def no_header(table: Table) -> DataError:
    """The error for a table whose first line is no header."""
    return DataError(
        f"{table.path} begins with {', '.join(table.header)[:120]!r}, which is an image and its "
        "label, not a header; expected names of columns in the first line: put a line such as "
        "image,label above it"
    )


def named(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return listed([repr(name[:40]) for name in names], ", ", most=6)
