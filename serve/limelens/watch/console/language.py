"""The sentences of the page, in every language that has a file in `sentences/`.

No template and no script has words of its own. It knows nothing of what the sentences are about.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup, escape

FOLDER: Final = Path(__file__).parent / "sentences"
DEFAULT: Final = "en"
_ONE: Final = ".one"

Say = Callable[..., str]
"""A sentence of the reader's language, by its key and with its values."""


class Sentences:
    """The sentences by language and key, such as `login.title`."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._by_language = {
            file.stem: dict(_flat(tomllib.loads(file.read_text(encoding="utf-8"))))
            for file in sorted(folder.glob("*.toml"))
        }

    @property
    def languages(self) -> Mapping[str, str]:
        """Their codes, and what they call themselves."""
        return {code: words["language.name"] for code, words in self._by_language.items()}

    def keys(self, language: str) -> frozenset[str]:
        """The keys of a language's sentences."""
        return frozenset(self._by_language[language])

    def raw(self, language: str, key: str) -> str:
        """A sentence that is not filled in."""
        return self._by_language[language][key]

    def say(self, language: str, key: str, /, **values: Any) -> str:
        """A sentence with its values filled in.

        With `count` 1 the sentence `KEY.one` is taken, if there is one. With a value that is markup
        the sentence is markup.

        Raises:
            KeyError: There is no such sentence.
        """
        words = self._by_language[language]
        if values.get("count") == 1 and key + _ONE in words:
            key += _ONE
        if any(hasattr(value, "__html__") for value in values.values()):
            return Markup(escape(words[key])).format(**values)
        return words[key].format(**values)

    def below(self, language: str, table: str) -> dict[str, str]:
        """The sentences of a table, by the rest of their keys, not filled in."""
        start = table + "."
        return {
            key.removeprefix(start): text
            for key, text in self._by_language[language].items()
            if key.startswith(start)
        }

    def choose(self, chosen: str | None, accepted: str) -> str:
        """The language for a reader.

        Args:
            chosen: What they chose; may be anything.
            accepted: What their browser accepts, as of the header Accept-Language.
        """
        if chosen in self._by_language:
            return chosen
        weighed = []
        for place, word in enumerate(accepted[:1000].split(",")):
            code, _, weight = word.strip().partition(";q=")
            try:
                weighed.append((-float(weight or 1), place, code.partition("-")[0].lower()))
            except ValueError:
                continue
        return next((code for _, _, code in sorted(weighed) if code in self._by_language), DEFAULT)


def _flat(table: Mapping[str, Any], start: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += _flat(value, f"{start}{key}.")
        else:
            found.append((start + key, str(value)))
    return found
