"""A table of pictures and their labels: one-hot columns, or one column with a list.

It knows csv and tsv files and finds the pictures that they name; it reads no picture.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limelens.serve.bundle import Task
from limelens.train.examples import DataError, Skipped

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif"})
"""Of the pictures that are read."""
SPLIT_NAMES: Final = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_ID_COLUMNS: Final = ("id", "image", "image_id", "path", "file", "filename", "file_name", "name")
_LABEL_COLUMNS: Final = ("labels", "label", "genres", "genre", "tags", "classes", "class", "target")
_WHOLE: Final = ("labels",)
"""Stems of a table in a data folder that is no split."""


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
    with or without a suffix. Its labels are the one-hot columns that are 1; without any, a column
    `label`, `labels`, `genre`, `genres` or `tags` (else the second) holds one label, a list as
    Python or JSON writes it, or names separated by `|` or `;`. A column `split` may name the
    split. `N/A` is a label like any other; an empty cell is none.

    Args:
        tables: As `find_tables` gives them.
        images: The pictures' folder; None takes the table's own, or a folder beside the table
            that holds the first picture.

    Raises:
        DataError: A table cannot be read or has no usable columns; no picture is there; an id or
            a label comes twice where it must not.
    """
    parsed = {split: _read(path) for split, path in tables.items()}
    multi = any(table.multi for table in parsed.values())
    names = {name for table in parsed.values() for _, labels, _ in table.rows for name in labels}
    names |= {name for table in parsed.values() for name in table.columns}
    rows: dict[str, list[tuple[Path, tuple[str, ...]]]] = {}
    missing: list[Skipped] = []
    seen: dict[str, Path] = {}
    for split, table in parsed.items():
        path = tables[split]
        folder = images or _find_images(path, [identity for identity, _, _ in table.rows])
        for identity, labels, own_split in table.rows:
            if identity in seen:
                raise DataError(f"{path} has the picture {identity!r} twice; expected one row each")
            seen[identity] = path
            picture = _picture(folder, identity)
            if picture is None:
                missing.append(Skipped(folder / identity, "the table names it, it is not there"))
            else:
                rows.setdefault(own_split or split, []).append((picture, labels))
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
    for number, row in enumerate(_lines(path)[1:], start=2):
        if len(row) < 2 or not row[0].strip() or not row[1].strip():
            raise DataError(f"{path}, line {number}: {row}; expected a label and its macro label")
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
    columns: tuple[str, ...]
    multi: bool


def _lines(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            return [row for row in csv.reader(file, delimiter=delimiter) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table in UTF-8: {error}") from error


def _read(path: Path) -> _Parsed:
    lines = _lines(path)
    if len(lines) < 2:
        raise DataError(f"{path} has {len(lines)} lines; expected names of columns and rows")
    header = [name.strip() for name in lines[0]]
    body = lines[1:]
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise DataError(
                f"{path}, row {number} has {len(row)} cells; expected {len(header)} as the header"
            )
    lower = [name.lower() for name in header]
    identity = next((lower.index(name) for name in _ID_COLUMNS if name in lower), 0)
    split = lower.index("split") if "split" in lower else None
    one_hot = [
        column
        for column in range(len(header))
        if column not in (identity, split)
        and all(row[column].strip() in "01" for row in body)
        # An empty cell is neither.
        and all(row[column].strip() for row in body)
    ]
    if len({header[column] for column in one_hot}) < len(one_hot):
        raise DataError(f"{path} names a column twice; expected a name of its own for each label")
    splits = [None if split is None else _split_name(path, row[split]) for row in body]
    identities = [row[identity].strip() for row in body]
    if len(one_hot) >= 2:
        found = [
            tuple(header[column] for column in one_hot if row[column].strip() == "1")
            for row in body
        ]
        columns = tuple(header[column] for column in one_hot)
        return _Parsed(tuple(zip(identities, found, splits, strict=True)), columns, multi=True)
    others = [c for c in range(len(header)) if c not in (identity, split)]
    column = next((lower.index(name) for name in _LABEL_COLUMNS if name in lower), None)
    if column is None:
        if not others:
            raise DataError(f"{path} has the columns {header}; expected one with labels")
        column = others[0]
    listed = [_list(row[column]) for row in body]
    multi = any(len(labels) != 1 or is_list for labels, is_list in listed)
    found = [labels for labels, _ in listed]
    return _Parsed(tuple(zip(identities, found, splits, strict=True)), (), multi)


def _split_name(path: Path, cell: str) -> str:
    name = SPLIT_NAMES.get(cell.strip().lower())
    if name is None:
        raise DataError(f"{path} has the split {cell!r}; expected train, val or test")
    return name


def _list(cell: str) -> tuple[tuple[str, ...], bool]:
    """The labels of a cell, and whether it was written as a list."""
    text = cell.strip()
    if text.startswith(("[", "(")):
        try:
            values = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values = re.split(r"\s*,\s*", text.strip("[]() "))
        return tuple(dict.fromkeys(str(value) for value in values if str(value))), True
    if "|" in text or ";" in text:
        parts = (part.strip() for part in re.split(r"[|;]", text))
        return tuple(dict.fromkeys(part for part in parts if part)), True
    return ((text,) if text else ()), False


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
    if path.is_file():
        return path
    for suffix in sorted(SUFFIXES):
        for spelled in (suffix, suffix.upper()):
            beside = path.with_name(path.name + spelled)
            if beside.is_file():
                return beside
    return None
