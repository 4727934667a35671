"""Reads single cells: yes or no, one label, or a list of labels."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from typing import Final

from limelens.serve.folders import label_name
from limelens.train.data.examples import DataError

FLAGS: Final = {
    "0": False, "1": True, "0.0": False, "1.0": True, "-1": False, "-1.0": False,
    "false": False, "true": True, "no": False, "yes": True, "n": False, "y": True,
}  # fmt: skip
"""Cells of yes and no in lower case, as spreadsheets, pandas and people write them."""
ONE_LABEL: Final = "none"
"""The separator that takes any cell as one label."""
_CERTAIN: Final = ("|", ";")
_UNCERTAIN: Final = (",", "/", "+", "&", " ")
_MOST_COMPARED: Final = 500
_BRACKETS: Final = ("[]", "()")


def is_flags(cells: Sequence[str]) -> bool:
    """Whether a column holds only yes and no, and maybe empty cells."""
    found = {cell.strip().lower() for cell in cells} - {""}
    return bool(found) and found <= {*FLAGS}


def is_yes(cell: str) -> bool:
    """Whether a flag is yes."""
    return FLAGS.get(cell.strip().lower(), False)


def separator_of(cells: Sequence[str]) -> str:
    """The separator in cells that certainly hold lists; empty if there are none.

    Raises:
        ValueError: Cells use both `|` and `;`.
    """
    found = [one for one in _CERTAIN if any(one in cell for cell in cells if not _is_list(cell))]
    if len(found) > 1:
        raise ValueError("cells hold both | and ;")
    return found[0] if found else ""


def looks_like_lists(cells: Sequence[str], *, is_plural: bool) -> tuple[str, str] | None:
    """What may separate labels in cells, and a cell that has it; None if nothing suggests lists.

    Args:
        cells: Of the column of labels.
        is_plural: Whether the column's name is a plural.
    """
    # A list of one is one label: `cat` beside `cat, dog`.
    distinct = {label_name(cell.strip()) for cell in cells if not _is_list(cell)} - {""}
    plain = sorted(distinct)[:_MOST_COMPARED]
    for separator in _UNCERTAIN:
        split = {cell: tuple(divide(cell, separator)) for cell in plain}
        several = {cell: parts for cell, parts in split.items() if len(parts) > 1}
        if not several:
            continue
        first = min(several)
        if separator == ",":
            return separator, first
        of_parts = [other for cell, parts in split.items() for other in {*parts} if cell in several]
        is_repeated = len({*of_parts}) < len(of_parts)
        is_contained = any({*a} < {*b} for a in split.values() for b in several.values())
        is_turned = len({frozenset(parts) for parts in several.values()}) < len(several)
        if is_contained or is_turned or (is_repeated and (is_plural or separator != " ")):
            return separator, first
    return None


def divide(cell: str, separator: str) -> list[str]:
    """The parts of a cell that are not empty, stripped."""
    parts = cell.split() if separator == " " else cell.split(separator)
    return [part.strip() for part in parts if part.strip()]


def read_labels(where: str, cell: str, separator: str) -> tuple[tuple[str, ...], bool]:
    """The labels of a cell, and whether it was written as a list.

    Args:
        where: Named in errors.
        cell: Its text.
        separator: Between labels; empty for none, `ONE_LABEL` to take the cell as it is.

    Raises:
        DataError: The cell begins like a list and cannot be read as one.
    """
    text = cell.strip()
    values: Sequence[object] | None = None
    if separator == ONE_LABEL:
        return ((label_name(text),) if text else ()), False
    if _is_list(text):
        values = _literal(text)
        if values is None and text.startswith("["):
            # Some write no quotes; numpy's lists, without commas, would be one long label.
            if re.search(r"""['"]""", text):
                raise DataError(
                    f"{where} has the labels {text}; expected a list as Python or JSON writes it, "
                    "or names separated by | or ;"
                )
            values = text[1:-1].split(",")
    elif separator and (separator == " " or separator in text):
        values = divide(text, separator)
    if values is None:
        return ((label_name(text),) if text else ()), False
    if not all(isinstance(value, str | int | float) for value in values):
        raise DataError(f"{where} has the labels {text}; expected a list of names")
    names = (label_name(str(value).strip()) for value in values)
    return tuple(dict.fromkeys(name for name in names if name)), True


def _is_list(cell: str) -> bool:
    text = cell.strip()
    return text[:1] + text[-1:] in _BRACKETS


def _literal(text: str) -> list[object] | tuple[object, ...] | None:
    """A list as JSON or Python writes it; None for other text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        # To Python, strings side by side are one; numpy writes two labels so.
        if re.search(r"""(['"])\s+['"]""", text):
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None
    return found if isinstance(found, list | tuple) else None
