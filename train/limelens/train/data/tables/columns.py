"""Decides which column of a table names the images and which hold the labels.

If two readings are possible, it refuses the table and names the options that decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from limelens.serve.folders import label_name, split_name
from limelens.train.data.examples import DataError
from limelens.train.data.tables.cells import (
    ONE_LABEL,
    is_flags,
    is_yes,
    looks_like_lists,
    read_labels,
    separator_of,
)
from limelens.train.data.tables.images import image_column
from limelens.train.data.tables.table import (
    LABEL_NAMES,
    SPLIT_NAMES,
    Table,
    TableOptions,
    check_header,
)

_PLURALS: Final = ("labels", "genres", "tags", "classes", "categories", "targets")
_ALL_FLAGS: Final = "all"
_MINUS: Final = frozenset(("-1", "-1.0"))


@dataclass(frozen=True)
class Columns:
    """What a table's columns mean, by their numbers.

    Args:
        label: The column of labels; None if labels are columns themselves.
        flags: The columns whose names are the labels.
        separator: As for `read_labels`.
        summary: All of this in one line, for people.
    """

    image: int
    folder: Path
    split: int | None
    label: int | None
    flags: tuple[int, ...]
    separator: str
    summary: str = ""


def choose_columns(
    path: Path, header: Sequence[str], body: Sequence[Sequence[str]], options: TableOptions
) -> Columns:
    """What the columns of a table mean; options override what the table looks like.

    Raises:
        DataError: An option names no column, the first line is no header, or no column or several
            could name the images or hold the labels.
    """
    table = Table(path, header, body)
    if options.columns and options.label_column:
        raise DataError("--columns and --label-column; expected one of them")
    if options.columns and options.separator:
        raise DataError("--columns and --separator; a separator is for cells of --label-column")
    split = _split_column(table)
    named: set[int | None] = {split}
    if options.label_column:
        named.add(table.column(options.label_column, "--label-column"))
    for name in options.columns:
        if name != _ALL_FLAGS or _ALL_FLAGS in header:
            named.add(table.column(name, "--columns"))
    image, folder = image_column(table, options, named)
    others = [column for column in range(len(header)) if column not in (image, split)]
    if not others:
        raise DataError(f"{path} has the columns {list(header)}; expected one with labels")
    label, flags = _label_columns(table, others, options)
    if label == image:
        raise DataError(f"{path}: {header[image]!r} cannot be both images and labels")
    if label is None and options.separator:
        raise DataError(
            f"{path} has columns of yes and no; a separator is for cells of a column of labels "
            "(--label-column)"
        )
    if label is not None:
        check_header(table, label)
    separator = "" if label is None else _separator(table, label, options)
    found = Columns(image, folder, split, label, flags, separator)
    return replace(found, summary=_summary(table, found))


def _split_column(table: Table) -> int | None:
    if "split" in table.lower:
        return table.lower.index("split")
    for name in SPLIT_NAMES:
        if name in table.lower:
            column = table.lower.index(name)
            if all(split_name(cell) for cell in table.cells[column]):
                return column
    return None


def _label_columns(
    table: Table, others: Sequence[int], options: TableOptions
) -> tuple[int | None, tuple[int, ...]]:
    """The column of labels, or the columns that are labels."""
    flags = [column for column in others if is_flags(table.cells[column])]
    if options.label_column:
        return table.column(options.label_column, "--label-column"), ()
    if options.columns:
        return None, _flags_by_option(table, flags, options.columns)
    called = [column for column in others if table.lower[column] in LABEL_NAMES]
    if len(called) > 1:
        called = _one_of(table, called)
    if len(called) == 1:
        # Flags beside it may mean anything, unless they only repeat its labels.
        if len(flags) >= 2 and called[0] not in flags and _agree(table, called[0], flags):
            return None, _checked_flags(table, flags)
        return called[0], ()
    if not called:
        if len(others) == 1:
            return others[0], ()
        texts = [one for one in others if one not in flags and not table.is_of_each_row(one)]
        if len(flags) >= 2 and not texts:
            return None, _checked_flags(table, flags)
    raise _unsure(table, called or [one for one in others if one not in flags], flags)


def _flags_by_option(table: Table, flags: Sequence[int], wanted: Sequence[str]) -> tuple[int, ...]:
    if tuple(wanted) == (_ALL_FLAGS,) and _ALL_FLAGS not in table.header:
        chosen = list(flags)
    else:
        chosen = sorted({table.column(name, "--columns") for name in wanted})
    for column in chosen:
        if column not in flags:
            cell = next((one for one in table.cells[column] if not is_flags([one])), "")
            raise DataError(
                f"{table.path} has {cell!r} in {table.header[column]!r} (--columns); expected "
                "0 or 1, or another pair of yes and no"
            )
    if len(chosen) < 2:
        raise DataError(
            f"--columns names {len(chosen)} columns of {table.path}; expected two or more (one "
            "column of labels is --label-column)"
        )
    return _checked_flags(table, chosen)


def _checked_flags(table: Table, flags: Sequence[int]) -> tuple[int, ...]:
    minus = next((one for one in flags if _MINUS & {*table.cells[one]}), None)
    if minus is not None and any({"0", "0.0"} & {*table.cells[one]} for one in flags):
        raise DataError(
            f"{table.path} has -1 in {table.header[minus]!r} and 0 among its columns of yes and "
            "no: -1 could mean no or unknown; expected 0 and 1 (write 0 for no, and leave out "
            "unknown rows or columns), or a selection of columns (--columns)"
        )
    return tuple(flags)


def _one_of(table: Table, called: list[int]) -> list[int]:
    """One of several columns of labels, if they are equivalent."""
    first, *others = called
    for other in others:
        pairs = {*zip(table.cells[first], table.cells[other], strict=True)}
        is_same = len(pairs) == len({*table.cells[first]}) == len({*table.cells[other]})
        if not is_same:
            return called
    # A name is a stronger sign than a number.
    return [next((one for one in called if not table.cells[one][0].isdecimal()), first)]


def _agree(table: Table, label: int, flags: Sequence[int]) -> bool:
    """Whether flags only repeat a column of labels."""
    try:
        separator = separator_of(table.cells[label])
    except ValueError:
        return False
    for row, cell in enumerate(table.cells[label]):
        listed, _ = read_labels(f"{table.path}", cell, separator)
        flagged = {label_name(table.header[one]) for one in flags if is_yes(table.cells[one][row])}
        if {*listed} != flagged:
            return False
    return True


def _separator(table: Table, label: int, options: TableOptions) -> str:
    """The separator of labels in the cells of a column."""
    if options.separator:
        return {"tab": "\t", "blank": " ", "space": " "}.get(options.separator, options.separator)
    cells, name = table.cells[label], table.header[label]
    try:
        certain = separator_of(cells)
    except ValueError as error:
        raise DataError(
            f"{table.path}: {error} in {name!r}; expected one separator (--separator)"
        ) from None
    if certain:
        return certain
    guess = looks_like_lists(cells, is_plural=table.lower[label] in _PLURALS)
    if guess is not None:
        separator, cell = guess
        shown = repr(separator) if separator != " " else "blank"
        raise DataError(
            f"{table.path} has cells such as {cell!r} in {name!r}, which may be one label or "
            f"several; say which: --separator {shown} for several, --separator {ONE_LABEL} for one"
        )
    return ""


def _unsure(table: Table, labels: Sequence[int], flags: Sequence[int]) -> DataError:
    ways = []
    if labels:
        ways.append(f"those in one column (--label-column NAME, of {table.names(labels)})")
    if len(flags) >= 2:
        ways.append(
            f"the names of the {len(flags)} columns of yes and no (--columns {_ALL_FLAGS}, or some)"
        )
    return DataError(
        f"{table.path} can be read in several ways; say what the labels are: {', or '.join(ways)}"
    )


def _summary(table: Table, found: Columns) -> str:
    parts = [f"images by {table.header[found.image]!r} in {found.folder}"]
    if found.label is None:
        minus = any(_MINUS & {*table.cells[column]} for column in found.flags)
        names = table.names(found.flags) + (", -1 is no" if minus else "")
        parts.append(f"labels are the {len(found.flags)} columns {names}")
    else:
        listed = found.separator not in ("", ONE_LABEL)
        between = "blanks" if found.separator == " " else found.separator
        each = f", separated by {between}" if listed else ""
        parts.append(f"labels in {table.header[found.label]!r}{each}")
    if found.split is not None:
        parts.append(f"splits in {table.header[found.split]!r}")
    read = {found.image, found.split, found.label, *found.flags}
    unread = [column for column in range(len(table.header)) if column not in read]
    if unread:
        parts.append(f"not read: {table.names(unread)}")
    return f"{table.path}: {'; '.join(parts)}"
