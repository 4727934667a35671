"""Sections of a model card that are written again, and what people wrote below them.

Knows text and the marks around sections. Does not know what a section says.
"""

from __future__ import annotations

from typing import Final

BY_HAND: Final = "<!-- Written by hand from here on: limelens keeps it. -->"
"""What stands below this line in a card is kept when the card is written again."""


def with_section(text: str, name: str, section: str) -> str:
    """A card with a section in place of its last one of that name, or as its last.

    Args:
        text: The card.
        name: In the marks around the section; readers do not see them.
        section: Heading and content.
    """
    begin, end = f"<!-- limelens {name} -->", f"<!-- end of limelens {name} -->"
    marked = f"{begin}\n\n{section.strip()}\n\n{end}"
    before, found, rest = text.partition(begin)
    if found:
        _, _, after = rest.partition(end)
        return f"{before}{marked}{after}"
    before, marker, kept = text.partition(BY_HAND)
    return f"{before.rstrip()}\n\n{marked}\n" + (f"\n{marker}{kept}" if marker else "")
