"""A folder of images: every file that could be an image, by its path in the folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from limelens.bulk.sources.item import Item, Place
from limelens.bulk.sources.source import Source, in_chunks, shown


class Names:
    """Names, packed: millions of them, of which a list would take several times as much memory."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []

    def add(self, names: Iterable[str]) -> None:
        """Appends some, many at a time."""
        if packed := b"\0".join(map(os.fsencode, names)):
            self._packed.append(packed)

    def __bool__(self) -> bool:
        return bool(self._packed)

    def __iter__(self) -> Iterator[str]:
        for packed in self._packed:
            yield from map(os.fsdecode, packed.split(b"\0"))


class ImageFolder(Source):
    """The images in a folder and below, or one image, whose name is empty."""

    kind = "images"

    @property
    def files(self) -> Mapping[str, tuple[int, int]]:
        """See `Source`; an image is known by its path alone."""
        return {}

    def chunks(self, most: int) -> Iterator[list[Item]]:
        """See `Source`."""
        root = os.fsencode(self.root.absolute())
        below = root.rstrip(os.fsencode(os.sep)) + os.fsencode(os.sep)

        def item(name: str) -> Item:
            # An image that was given itself has no name below it.
            called = name or self.root.name
            place = below + os.fsencode(name) if name else root
            return Item(shown(called), os.fsencode(called), Place.FILE, place)

        return in_chunks(map(item, self.names), most)
