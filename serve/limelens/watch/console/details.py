"""Details of losses and errors in the reader's language, as far as they are limelens's own words.

Wherever a detail goes, to sinks, terminals and the record, it is an English text. What limelens
itself says is in `[details]` of en.toml as it says it, so that it is recognised here, and found in
the other languages. What systems, cameras and servers say stays as it is, marked as English.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from limelens.watch.console.language import DEFAULT, Sentences

_VALUE: Final = re.compile(r"\{(\w+)\}")
_MOST_KEPT: Final = 1024


@dataclass(frozen=True, slots=True)
class Detail:
    """A text that may be in another language than the page; a template shows it as such.

    Args:
        text: The text.
        language: Its code; empty if it is the page's.
    """

    text: str
    language: str = ""

    def __html__(self) -> Markup:
        """The text as markup."""
        if not self.language:
            return escape(self.text)
        return Markup('<span lang="{}">{}</span>').format(self.language, self.text)

    @property
    def as_sentence(self) -> Detail:
        """The same, with a capital letter and a full stop."""
        return Detail(f"{self.text[:1].upper()}{self.text[1:]}.", self.language)


InWords = Callable[[str], Detail]
"""A detail in the reader's language."""


def english(text: object) -> Detail:
    """What a system or a library says, which is English whatever the page's language is."""
    return Detail(str(text), DEFAULT)


class Details:
    """Finds the details that are limelens's own words.

    Args:
        sentences: With a table `[details]`.
    """

    def __init__(self, sentences: Sentences) -> None:
        self._sentences = sentences
        known = sentences.below(DEFAULT, "details")
        # With more words of its own a sentence is nearer to a text that several fit.
        nearest = sorted(known, key=lambda key: -len(_VALUE.sub("", known[key])))
        self._patterns = [(key, _pattern(known[key])) for key in nearest]
        self.in_words = functools.lru_cache(_MOST_KEPT)(self._in_words)
        """A detail, by the reader's language and the text; see `Detail`."""

    def _in_words(self, language: str, text: str) -> Detail:
        for key, pattern in self._patterns:
            if (found := pattern.fullmatch(text)) is not None:
                values = {
                    name: self._day(language, value) if name == "day" else value
                    for name, value in found.groupdict().items()
                }
                return Detail(self._sentences.say(language, f"details.{key}", **values))
        return Detail(text) if language == DEFAULT or not text else english(text)

    def _day(self, language: str, name: str) -> str:
        key = f"weekdays.{name.lower()}"
        return self._sentences.say(language, key) if key in self._sentences.keys(DEFAULT) else name


def _pattern(sentence: str) -> re.Pattern[str]:
    parts = _VALUE.split(sentence)  # text and names of values by turns
    return re.compile(
        "".join(
            f"(?P<{part}>.+?)" if number % 2 else re.escape(part)
            for number, part in enumerate(parts)
        ),
        re.DOTALL,
    )
