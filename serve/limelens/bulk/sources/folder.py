"""A folder of images: every file that could be an image, by its path in the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from limelens.bulk.sources.item import Item, Place
from limelens.bulk.sources.source import in_chunks, shown


@dataclass(frozen=True)
class ImageFolder:
    """The images in a folder and below, or one image.

    Args:
        root: The folder, or the image.
        names: Paths in the folder, sorted.
    """

    root: Path
    names: Sequence[str]
    column: str = ""

    @property
    def made_of(self) -> Mapping[str, str]:
        """See `Source`."""
        return {"kind": "images", "path": shown(self.root.resolve())}

    @property
    def files(self) -> Mapping[str, tuple[int, int]]:
        """See `Source`; an image is known by its path alone."""
        return {}

    def chunks(self, most: int) -> Iterator[list[Item]]:
        """See `Source`."""
        return in_chunks(map(self._item, self.names), most)

    def _item(self, name: str) -> Item:
        # An image that was given itself has no name below it.
        file = os.fsencode(self.root.absolute() / name if name else self.root.absolute())
        return Item(
            shown(name or self.root.name), os.fsencode(name or self.root.name), Place.FILE, file
        )
