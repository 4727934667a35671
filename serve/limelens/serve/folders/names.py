"""Names of labels and splits: one form for each, and labels that are easily confused."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

_SPLIT_NAMES: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_ENDING: Final = re.compile(r"[ _-]*(set|data|split|images)$")
_BETWEEN_WORDS: Final = re.compile(r"[\s_-]+")


def split_name(name: str) -> str | None:
    """The split that a folder, a table or a cell names; None if it names none.

    Args:
        name: In any case: `train` or `training`, `val`, `valid` or `validation`, `test` or
            `testing`, each also as in `training_set`.
    """
    plain = name.strip().lower()
    return _SPLIT_NAMES.get(plain) or _SPLIT_NAMES.get(_ENDING.sub("", plain))


def label_name(text: str) -> str:
    """A label in Unicode's composed form (NFC).

    macOS returns file names in the decomposed form, most other systems as they were typed.
    """
    return unicodedata.normalize("NFC", text)


def look_alikes(labels: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of labels that differ only in case, blanks, hyphens or invisible characters."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        text = unicodedata.normalize("NFKC", label).casefold()
        visible = "".join(one for one in text if unicodedata.category(one) != "Cf")
        # A label of nothing but invisible characters keeps them.
        groups.setdefault(_BETWEEN_WORDS.sub("", visible) or visible, []).append(label)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
