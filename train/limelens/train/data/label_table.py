"""Reads tables of images and their labels: columns of yes and no, or one column of labels.

Combines rows; `tables.columns` decides what a column means. Reads no image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from limelens.serve.bundle import Task
from limelens.serve.folders import label_name, split_name
from limelens.serve.wording import counted
from limelens.train.data.examples import DataError, Skipped
from limelens.train.data.tables.cells import is_yes, read_labels
from limelens.train.data.tables.columns import choose_columns
from limelens.train.data.tables.images import find_image
from limelens.train.data.tables.table import TableOptions, read_lines

_SUFFIXES: Final = (".csv", ".tsv")
_TEXTS: Final = ("image_column", "label_column", "separator")

Images = Path | TableOptions | None
"""The folder of the images that a table names, or all options of the table; None finds it."""
Rows = Sequence[tuple[Path, tuple[str, ...]]]
"""Images with the names of their labels."""


@dataclass(frozen=True)
class LabelTable:
    """The content of a table.

    Args:
        task: Multilabel if a row may have any number of labels.
        rows: Existing images by split (`all` if the table names none).
        missing: Rows without an image file.
        notes: How each table was read, a line each.
    """

    labels: tuple[str, ...]
    task: Task
    rows: Mapping[str, Rows]
    missing: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()


def table_settings(images: Images) -> dict[str, str | None]:
    """The options of a table as a run stores them; unset ones are left out."""
    options = _options(images)
    settings = {name: getattr(options, name) for name in _TEXTS}
    settings["columns"] = ",".join(options.columns)
    folder = options.images and str(options.images.resolve())
    return {"images": folder, **{name: value for name, value in settings.items() if value}}


def table_options(settings: Mapping[str, Any]) -> TableOptions:
    """The options of a table from what a run stored."""
    images, columns = settings.get("images"), settings.get("columns")
    return TableOptions(
        images=Path(images) if images else None,
        columns=tuple(columns.split(",")) if columns else (),
        **{name: settings.get(name, "") for name in _TEXTS},
    )


def _options(images: Images) -> TableOptions:
    return images if isinstance(images, TableOptions) else TableOptions(images)


def find_tables(data: Path) -> dict[str, Path]:
    """The tables of a data folder, by split.

    Args:
        data: A csv or tsv file, or a folder with `train.csv` and maybe `val.csv` (or
            `validation.csv`) and `test.csv`, or with `labels.csv`; `.tsv` likewise.

    Returns:
        Tables by `train`, `val` and `test`; a single table is `all`. Empty if there is none.

    Raises:
        DataError: A split has two tables.
    """
    if data.is_file():
        return {"all": data} if data.suffix.lower() in _SUFFIXES else {}
    found: dict[str, Path] = {}
    for path in sorted(data.iterdir()) if data.is_dir() else ():
        split = "all" if path.stem.lower() == "labels" else split_name(path.stem)
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith(".") or not split:
            continue
        if split in found:
            raise DataError(f"{data} has {found[split].name} and {path.name}; expected one of them")
        found[split] = path
    if "all" in found and len(found) > 1:
        others = ", ".join(path.name for split, path in found.items() if split != "all")
        raise DataError(f"{data} has {found['all'].name} beside {others}; expected either")
    if len(found) == 1:
        return {"all": next(iter(found.values()))}
    return found


def read_label_tables(tables: Mapping[str, Path], images: Images = None) -> LabelTable:
    """Reads the tables of a data set.

    A table's first line names its columns. The image column holds file names below the folder of
    images, with or without suffix; `id`, `image`, `image_id`, `path`, `file`, `filename`,
    `file_name` and `name` are tried first. Labels are the names of the columns of yes and no; or
    the cells of a column called `label`, `genre`, `tag`, `class`, `category` or `target` (or their
    plurals), or of the only other column: one label, a Python or JSON list, or names separated by
    `|` or `;`. A column `split` may name the split. `N/A` is a label like any other; an empty cell
    means no label, and is refused unless some cell has several labels.

    A table that can be read in two ways is refused; the message names the options that decide.

    Args:
        tables: As `find_tables` gives them.
        images: The images' folder, or all options of the tables. None takes the table's own
            folder, or one beside the table that holds the images.

    Raises:
        DataError: A table cannot be read, or can be read in several ways; a cell cannot be
            understood; there is no image; an image occurs twice. The message names file and row.
    """
    parsed = {split: _read(path, _options(images)) for split, path in tables.items()}
    first, *others = parsed.values()
    for other in others:
        if first.columns != other.columns:
            raise DataError(
                f"{first.path} and {other.path} are read differently: only one has the label "
                f"column {min(first.columns ^ other.columns)!r}; say what to read (--columns or "
                "--label-column)"
            )
    names = {label for table in parsed.values() for row in table.rows for label in row.labels}
    rows: dict[str, list[tuple[Path, tuple[str, ...]]]] = {}
    missing: list[Skipped] = []
    seen: dict[Path, str] = {}
    for split, table in parsed.items():
        for row in table.rows:
            found = find_image(table.folder, row.identity)
            # An id is the same image with and without its suffix.
            image = found or table.folder / row.identity
            if image in seen:
                raise DataError(
                    f"{row.where}: {row.identity!r} is already in {seen[image]}; expected one row "
                    "for each image"
                )
            seen[image] = row.where
            if found is None:
                missing.append(Skipped(image, "the table names it, but no such file exists"))
            else:
                rows.setdefault(row.split or split, []).append((found, row.labels))
    return LabelTable(
        tuple(sorted(names.union(*(table.columns for table in parsed.values())))),
        Task.MULTILABEL if any(table.multi for table in parsed.values()) else Task.MULTICLASS,
        rows,
        tuple(missing),
        tuple(table.note for table in parsed.values()),
    )


def read_macro_labels(path: Path, labels: Sequence[str]) -> dict[str, str]:
    """Reads a table of label and superclass; the first line names the columns.

    Args:
        path: csv or tsv; only its first two columns are read.
        labels: Those of the data; each must be in the table.

    Raises:
        DataError: The table cannot be read, a label is missing or has two superclasses.
    """
    macro: dict[str, str] = {}
    lines = read_lines(path)
    if lines and label_name(lines[0][1][0].strip()) in {*labels} - {"label"}:
        raise DataError(
            f"{path} begins with the label {lines[0][1][0]!r}; expected names of columns in the "
            "first line: put a line such as label,macro above it"
        )
    for number, row in lines[1:]:
        if len(row) < 2 or not row[0].strip() or not row[1].strip():
            raise DataError(f"{path}, row {number}: {row}; expected a label and its superclass")
        label, coarse = label_name(row[0].strip()), row[1].strip()
        if macro.setdefault(label, coarse) != coarse:
            raise DataError(f"{path} puts {label!r} under {macro[label]!r} and {coarse!r}")
    lacking = [label for label in labels if label not in macro]
    if lacking:
        raise DataError(f"{path} has no superclass for {lacking[0]!r}; add a line for it")
    return {label: macro[label] for label in labels}


class _Row(NamedTuple):
    where: str
    identity: str
    labels: tuple[str, ...]
    split: str | None


class _Parsed(NamedTuple):
    """One table; `columns` are the labels that are columns."""

    path: Path
    rows: Sequence[_Row]
    columns: frozenset[str]
    multi: bool
    folder: Path
    note: str


def _read(path: Path, options: TableOptions) -> _Parsed:
    lines = read_lines(path)
    if len(lines) < 2:
        raise DataError(
            f"{path} has {counted(len(lines), 'row')}; expected names of columns and a row each"
        )
    header = [label_name(name.strip()) for name in lines[0][1]]
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, row {number} has {counted(len(cells), 'cell')}; expected {len(header)} "
                "as the header"
            )
    found = choose_columns(path, header, [cells for _, cells in lines[1:]], options)
    columns = frozenset(header[column] for column in found.flags)
    if len(columns) < len(found.flags):
        raise DataError(f"{path} names a column twice; expected a name of its own for each label")
    multi = found.label is None
    rows = []
    for number, cells in lines[1:]:
        where = f"{path}, row {number}"
        if found.label is None:
            labels = _flagged(where, header, cells, found.flags)
        else:
            labels, is_list = read_labels(where, cells[found.label], found.separator)
            multi = multi or is_list
        split = None if found.split is None else split_name(cells[found.split])
        if found.split is not None and split is None:
            raise DataError(
                f"{where} has the split {cells[found.split]!r}; expected train, val or test"
            )
        rows.append(_Row(where, cells[found.image].strip(), labels, split))
    unlabelled = next((row for row in rows if not row.labels), None)
    if unlabelled and not multi:
        raise DataError(
            f"{unlabelled.where} has no label; expected one (or [] where other rows have several)"
        )
    return _Parsed(path, rows, columns, multi, found.folder, found.summary)


def _flagged(
    where: str, header: Sequence[str], cells: Sequence[str], flags: Sequence[int]
) -> tuple[str, ...]:
    """The names of the columns whose cell means yes."""
    for column in flags:
        # It could mean yes, no or unknown.
        if not cells[column].strip():
            raise DataError(
                f"{where} has nothing in column {header[column]!r}; expected 0 or 1 as in the "
                "other rows"
            )
    return tuple(header[column] for column in flags if is_yes(cells[column]))
