"""A table of pictures and their labels: one-hot columns, or one column with a list.

It knows csv and tsv files and finds the pictures that they name; it reads no picture.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limelens.serve.bundle import Task
from limelens.serve.image import SPLIT_NAMES, SUFFIXES
from limelens.train.examples import DataError, Skipped

_ID_COLUMNS: Final = ("id", "image", "image_id", "path", "file", "filename", "file_name", "name")
_LABEL_COLUMNS: Final = ("labels", "label", "genres", "genre", "tags", "classes", "class", "target")
_WHOLE: Final = ("labels",)
"""Stems of a table in a data folder that is no split."""
_FLAGS: Final = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""What one-hot cells hold, as spreadsheets and pandas write them, in lower case."""


@dataclass(frozen=True)
class LabelTable:
    """What a table says.

    Args:
        labels: Sorted.
        task: Multilabel where a row may have any number of labels.
        rows: By split (`all` where the table names none), pictures that are there with their
            labels.
        missing: Rows whose picture is not there.
    """

    labels: tuple[str, ...]
    task: Task
    rows: Mapping[str, tuple[tuple[Path, tuple[str, ...]], ...]]
    missing: tuple[Skipped, ...]


def find_tables(data: Path) -> dict[str, Path]:
    """The tables of a data folder, by split.

    Args:
        data: A csv or tsv file, or a folder with `train.csv` and maybe `val.csv` (or
            `validation.csv`) and `test.csv`, or with `labels.csv`; `.tsv` likewise.

    Returns:
        Tables by `train`, `val` and `test`; a lone table is `all`. Empty where there is none.

    Raises:
        DataError: A split has two tables.
    """
    if data.is_file():
        return {"all": data} if data.suffix.lower() in (".csv", ".tsv") else {}
    found: dict[str, Path] = {}
    if not data.is_dir():
        return found
    for path in sorted(data.iterdir()):
        stem = path.stem.lower()
        if path.suffix.lower() not in (".csv", ".tsv") or stem not in (*SPLIT_NAMES, *_WHOLE):
            continue
        split = SPLIT_NAMES.get(stem, "all")
        if split in found:
            raise DataError(f"{data} has {found[split].name} and {path.name}; expected one of them")
        found[split] = path
    if "all" in found and len(found) > 1:
        others = ", ".join(path.name for split, path in found.items() if split != "all")
        raise DataError(f"{data} has {found['all'].name} beside {others}; expected either")
    if len(found) == 1:
        return {"all": next(iter(found.values()))}
    return found


def read_label_tables(tables: Mapping[str, Path], images: Path | None = None) -> LabelTable:
    """Reads the tables of a data set.

    A table's first line names its columns. The picture is named by a column `id`, `image`,
    `path`, `file`, `filename` or `name` (else by the first): a path below the folder of images,
    with or without a suffix. Its labels are the one-hot columns (two or more of 0 and 1, or of
    false and true) that are 1; without any, a column `label`, `labels`, `genre`, `genres` or
    `tags` (else the second) holds one label, a list as Python or JSON writes it, or names
    separated by `|` or `;`. A column `split` may name the split. `N/A` is a label like any other;
    an empty cell is none, and refused where no cell has several.

    Args:
        tables: As `find_tables` gives them.
        images: The pictures' folder; None takes the table's own, or a folder beside the table
            that holds the first picture.

    Raises:
        DataError: A table cannot be read or has no usable columns; a cell cannot be understood;
            no picture is there; a picture comes twice. The message names file and row.
    """
    parsed = {split: _read(path) for split, path in tables.items()}
    multi = any(table.multi for table in parsed.values())
    names = {name for table in parsed.values() for _, labels, _ in table.rows for name in labels}
    names |= {name for table in parsed.values() for name in table.columns}
    rows: dict[str, list[tuple[Path, tuple[str, ...]]]] = {}
    missing: list[Skipped] = []
    seen: dict[Path, str] = {}
    for split, table in parsed.items():
        path = tables[split]
        folder = images or _find_images(path, [identity for identity, _, _ in table.rows])
        for number, (identity, labels, own_split) in zip(table.numbers, table.rows, strict=True):
            found = _picture(folder, identity)
            # An id with and without its suffix is the same picture.
            picture = found or folder / identity
            here = f"{path}, row {number}"
            if picture in seen:
                raise DataError(
                    f"{here}: {identity!r} comes a second time, after {seen[picture]}; "
                    "expected one row for each picture"
                )
            seen[picture] = here
            if found is None:
                missing.append(Skipped(picture, "the table names it, it is not there"))
            else:
                rows.setdefault(own_split or split, []).append((found, labels))
    if not rows:
        first = missing[0].path if missing else next(iter(tables.values()))
        raise DataError(
            f"no picture that the table names is there, {first} for one; "
            "name the pictures' folder (--images)"
        )
    return LabelTable(
        tuple(sorted(names)),
        Task.MULTILABEL if multi else Task.MULTICLASS,
        {split: tuple(found) for split, found in rows.items()},
        tuple(missing),
    )


def read_macro_labels(path: Path, labels: Sequence[str]) -> dict[str, str]:
    """Reads a table of label and macro label; the first line names the columns.

    Args:
        path: csv or tsv; its first two columns are taken.
        labels: Those of the data; each must be in the table.

    Raises:
        DataError: The table cannot be read, a label is missing or has two macro labels.
    """
    macro: dict[str, str] = {}
    for number, row in _lines(path)[1:]:
        if len(row) < 2 or not row[0].strip() or not row[1].strip():
            raise DataError(f"{path}, row {number}: {row}; expected a label and its macro label")
        label, coarse = row[0].strip(), row[1].strip()
        if macro.setdefault(label, coarse) != coarse:
            raise DataError(f"{path} puts {label!r} under {macro[label]!r} and {coarse!r}")
    lacking = [label for label in labels if label not in macro]
    if lacking:
        raise DataError(f"{path} has no macro label for {lacking[0]!r}; add a line for it")
    return {label: macro[label] for label in labels}


@dataclass(frozen=True)
class _Parsed:
    """One table: rows of identity, labels and split, and the labels that are columns."""

    rows: tuple[tuple[str, tuple[str, ...], str | None], ...]
    numbers: tuple[int, ...]
    columns: tuple[str, ...]
    multi: bool


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of the line on which it ends."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            return [(reader.line_num, row) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table in UTF-8: {error}") from error


def _read(path: Path) -> _Parsed:
    lines = _lines(path)
    if len(lines) < 2:
        raise DataError(f"{path} has {len(lines)} rows; expected names of columns and a row each")
    header = [name.strip() for name in lines[0][1]]
    numbers, body = zip(*lines[1:], strict=True)
    for number, row in lines[1:]:
        if len(row) != len(header):
            raise DataError(
                f"{path}, row {number} has {len(row)} cells; expected {len(header)} as the header"
            )
    lower = [name.lower() for name in header]
    identity = next((lower.index(name) for name in _ID_COLUMNS if name in lower), 0)
    split = lower.index("split") if "split" in lower else None
    others = [column for column in range(len(header)) if column not in (identity, split)]
    named = next((lower.index(name) for name in _LABEL_COLUMNS if name in lower), None)
    splits = [
        None if split is None else _split_name(path, number, row[split])
        for number, row in lines[1:]
    ]
    identities = [row[identity].strip() for row in body]
    one_hot = [column for column in others if _is_one_hot([row[column] for row in body])]
    # A column `label` of 0 and 1 holds the labels 0 and 1, whatever flags are beside it.
    if len(one_hot) >= 2 and named not in one_hot:
        columns = tuple(header[column] for column in one_hot)
        if len({*columns}) < len(columns):
            raise DataError(
                f"{path} names a column twice; expected a name of its own for each label"
            )
        _check_gaps(path, header, lines[1:], one_hot)
        found = [
            tuple(header[column] for column in one_hot if _FLAGS[row[column].strip().lower()])
            for row in body
        ]
        rows = tuple(zip(identities, found, splits, strict=True))
        return _Parsed(rows, numbers, columns, multi=True)
    if named is None and not others:
        raise DataError(f"{path} has the columns {header}; expected one with labels")
    column = others[0] if named is None else named
    listed = [_list(f"{path}, row {number}", row[column]) for number, row in lines[1:]]
    multi = any(is_list for _, is_list in listed)
    for number, (labels, _) in zip(numbers, listed, strict=True):
        if not labels and not multi:
            raise DataError(
                f"{path}, row {number} has no label; expected one (or [] where other rows have "
                "several)"
            )
    rows = tuple(zip(identities, (labels for labels, _ in listed), splits, strict=True))
    return _Parsed(rows, numbers, (), multi)


def _is_one_hot(cells: Sequence[str]) -> bool:
    found = {cell.strip().lower() for cell in cells} - {""}
    return bool(found) and found <= {*_FLAGS}


def _check_gaps(
    path: Path, header: Sequence[str], lines: Sequence[tuple[int, list[str]]], columns: list[int]
) -> None:
    """Refuses an empty cell among 0 and 1: it may mean either, or that nobody looked."""
    for number, row in lines:
        for column in columns:
            if not row[column].strip():
                raise DataError(
                    f"{path}, row {number} has nothing in column {header[column]!r}; expected 0 "
                    "or 1 as in the other rows"
                )


def _split_name(path: Path, number: int, cell: str) -> str:
    name = SPLIT_NAMES.get(cell.strip().lower())
    if name is None:
        raise DataError(f"{path}, row {number} has the split {cell!r}; expected train, val or test")
    return name


def _list(where: str, cell: str) -> tuple[tuple[str, ...], bool]:
    """The labels of a cell, and whether it was written as a list."""
    text = cell.strip()
    values: Sequence[object] | None = None
    if text[:1] + text[-1:] in ("[]", "()"):
        values = _literal(text)
        if values is None and text.startswith("["):
            # As some write it, without quotes; numpy's, without commas, would be one long label.
            if re.search(r"""['"]""", text):
                raise DataError(
                    f"{where} has the labels {text}; expected a list as Python or JSON writes it, "
                    "or names separated by | or ;"
                )
            values = text[1:-1].split(",")
    elif "|" in text or ";" in text:
        values = re.split(r"[|;]", text)
    if values is None:
        return ((text,) if text else ()), False
    if not all(isinstance(value, str | int | float) for value in values):
        raise DataError(f"{where} has the labels {text}; expected a list of names")
    names = (str(value).strip() for value in values)
    return tuple(dict.fromkeys(name for name in names if name)), True


def _literal(text: str) -> list[object] | tuple[object, ...] | None:
    """A list as JSON or Python writes it; None for other text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        # Strings side by side are one string in Python, and two labels to numpy, which wrote them.
        if re.search(r"""(['"])\s+['"]""", text):
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None
    return found if isinstance(found, list | tuple) else None


def _find_images(table: Path, identities: Sequence[str]) -> Path:
    beside = table.parent
    folders = [beside, *sorted(path for path in beside.iterdir() if path.is_dir())]
    for identity in identities[:100]:
        for folder in folders:
            if _picture(folder, identity) is not None:
                return folder
    return beside


def _picture(folder: Path, identity: str) -> Path | None:
    if not identity:
        return None
    path = folder / identity
    if _is_file(path):
        return path
    for suffix in sorted(SUFFIXES):
        for spelled in (suffix, suffix.upper()):
            beside = path.with_name(path.name + spelled)
            if _is_file(beside):
                return beside
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # A text too long for a name, say.
        return False
