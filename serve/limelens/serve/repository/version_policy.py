"""Which versions of a model are loaded: all, the newest few, or pinned ones.

It knows numbers and names, and nothing of files or sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from limelens.serve.errors import InvalidRequestError

_EXPECTED = "expected all, latest, a number of newest versions, or NAME=VERSION[,VERSION …]"


@dataclass(frozen=True)
class VersionPolicy:
    """The versions that are wanted.

    Args:
        newest: How many, the newest that can be loaded; None is all.
        pinned: By model, the only versions that are wanted of it.
    """

    newest: int | None = None
    pinned: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def pins(self, name: str) -> bool:
        """Whether somebody chose the versions of a model by their numbers."""
        return name in self.pinned

    def candidates(self, name: str, found: Iterable[int]) -> list[int]:
        """The versions of a model that may be loaded, best first; pinned ones even if missing."""
        return sorted(self.pinned.get(name, found), reverse=True)

    def is_enough(self, name: str, count: int) -> bool:
        """Whether no more versions of a model are wanted once `count` are loaded."""
        return not self.pins(name) and self.newest is not None and count >= self.newest


ALL = VersionPolicy()


def parse_versions(words: Iterable[str]) -> VersionPolicy:
    """Reads the option `--versions`: all, latest, a number, or NAME=VERSION[,VERSION …]."""
    newest: list[int | None] = []
    pinned: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, equals, listed = word.rpartition("=")
        numbers = [part.strip() for part in listed.split(",")]
        if equals:
            if not name or not all(map(_is_number, numbers)) or name in pinned:
                raise InvalidRequestError("versions", f"{word!r}; {_EXPECTED}, each name once")
            pinned[name] = tuple(sorted({int(number) for number in numbers}))
        elif word in ("all", "latest"):
            newest.append(None if word == "all" else 1)
        elif _is_number(word):
            newest.append(int(word))
        else:
            raise InvalidRequestError("versions", f"{word!r}; {_EXPECTED}")
    if len(newest) > 1:
        raise InvalidRequestError("versions", "two rules for all models; expected one at most")
    return VersionPolicy(newest[0] if newest else None, pinned)


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and word[0] != "0" and len(word) <= 9
