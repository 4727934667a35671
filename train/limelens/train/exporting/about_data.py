"""What a bundle says of its data and of its limits: as its exporter says, else as files beside it.

It knows names of files, and neither bundles nor cards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_LICENSES: Final = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "LICENCE.txt")
_LIMITS: Final = "LIMITS.md"
_MOST_CHARACTERS: Final = 20_000


@dataclass(frozen=True)
class About:
    """What people know of a model.

    Args:
        data_name: Of the data that it was trained on, for example a title and an address.
        data_license: Of that data, for example `CC BY 4.0`.
        limits: What the model must not be used for, and where it fails; Markdown.
    """

    data_name: str = ""
    data_license: str = ""
    limits: str = ""

    def or_of(self, data: Path) -> About:
        """The same; what is empty is taken from the data's folder.

        The first line of a file LICENSE there names the licence; LIMITS.md has the limits.
        """
        folder = data if data.is_dir() else data.parent
        license_ = self.data_license
        for name in _LICENSES if not license_ else ():
            lines = _text(folder / name).split("\n")
            if lines != [""]:
                license_ = f"{lines[0].lstrip('# ')} (the data's {name})"
                break
        return About(self.data_name, license_, self.limits or _text(folder / _LIMITS))

    def to_card(self) -> dict[str, Any]:
        """The keys that are known, for the card in a bundle's metadata."""
        data = {"name": self.data_name, "license": self.data_license}
        card: dict[str, Any] = {"data": {key: value for key, value in data.items() if value}}
        if self.limits:
            card["limits"] = self.limits
        return {key: value for key, value in card.items() if value}


def _text(path: Path) -> str:
    """The text of a file; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8")[:_MOST_CHARACTERS].strip()
    except (OSError, UnicodeDecodeError):
        return ""
