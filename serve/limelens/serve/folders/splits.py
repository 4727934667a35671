"""Maps the usual names of splits to `train`, `val` and `test`."""

from __future__ import annotations

import re
from typing import Final

SPLITS: Final = ("train", "val", "test")
"""All splits, by the names used here."""
_NAMES: Final = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_ENDING: Final = re.compile(r"[ _-]*(set|data|split|images)$")


def split_name(name: str) -> str | None:
    """The split that a folder, a table or a cell names; None if it names none.

    Args:
        name: In any case: `train` or `training`, `val`, `valid` or `validation`, `test` or
            `testing`, each also as in `training_set`.
    """
    plain = name.strip().lower()
    return _NAMES.get(plain) or _NAMES.get(_ENDING.sub("", plain))
