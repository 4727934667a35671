"""Where long lines break: between words, and in tables between the parts of a name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text

_WORD: Final = re.compile(r"\S+\s*|\s+")
_PART: Final = re.compile(r"[^\s/\\_-]*[\s/\\_-]+|[^\s/\\_-]+")
"""Of a path or a label: a word, and what stands between it and the next."""


def at_spaces(text: Text, width: int) -> Text:
    """Breaks lines at spaces; a word that is longer than a line stays whole."""
    lines = text.split("\n", allow_blank=True)
    return Text("\n").join(one for line in lines for one in _broken(line, _WORD, width))


class Folded:
    """A cell with a path or a label; a part that is longer than the column is cut into lines.

    Args:
        markup: The text, as for `Console.print`.
    """

    def __init__(self, markup: str) -> None:
        self._text = Text.from_markup(markup, overflow="fold")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield from _broken(self._text, _PART, options.max_width)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        parts = [cell_len(one) for one in _PART.findall(self._text.plain)]
        lines = _broken(self._text, _PART, options.max_width)
        return Measurement(max(parts, default=0), max(line.cell_len for line in lines))


def _broken(text: Text, part: re.Pattern[str], width: int) -> list[Text]:
    breaks: list[int] = []
    used = 0
    for found in part.finditer(text.plain):
        if used and used + cell_len(found[0].rstrip()) > width:
            breaks.append(found.start())
            used = 0
        used += cell_len(found[0])
    lines = list(text.divide(breaks))
    for line in lines:
        line.rstrip()
    return lines
