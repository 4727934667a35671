"""Names of labels: one Unicode form for all, and which ones are easily confused."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

_BETWEEN_WORDS: Final = re.compile(r"[\s_-]+")


def label_name(text: str) -> str:
    """A label in Unicode's composed form (NFC).

    macOS returns file names in the decomposed form, most other systems as they were typed.
    """
    return unicodedata.normalize("NFC", text)


def look_alikes(labels: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of labels that differ only in case, blanks, hyphens or invisible characters."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(_plain(label), []).append(label)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _plain(label: str) -> str:
    text = unicodedata.normalize("NFKC", label).casefold()
    visible = "".join(one for one in text if unicodedata.category(one) != "Cf")
    # A label of nothing else stays as it is.
    return _BETWEEN_WORDS.sub("", visible) or visible
