"""WebDataset's shards: tar files whose members are images and what belongs to them.

Only the heads of members are read here. A shard that ends too early, or is damaged, has its images
up to there, and one row that says why the rest is missing.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from limelens.bulk.sources.item import Item, Place
from limelens.bulk.sources.source import Source, in_chunks, shown
from limelens.serve.image import SUFFIXES
from limelens.serve.wording import first_line

_LONGEST_HEAD: Final = 1024**2
"""Bytes that a head of a member may have, with its long name; tarfile reads it whole."""
_SPARSE: Final = "a sparse member; expected a shard that was packed without --sparse"


class Shards(Source):
    """Tar files."""

    kind = "shards"

    def chunks(self, most: int) -> Iterator[list[Item]]:
        """See `Source`."""
        for name in self.names:
            yield from in_chunks(_members(self.root.absolute() / name, name), most)


def _members(shard: Path, name: str) -> Iterator[Item]:
    """The images of a shard; a damaged one ends with an item that cannot be read."""
    num_found = 0
    try:
        size_bytes = shard.stat().st_size
        # Not `r:*`, which would unpack a compressed shard for each of its images.
        with _Heads(shard) as heads, tarfile.open(shard, "r:", heads) as tar:
            end = 0
            while (member := tar.next()) is not None:
                # A damaged size may lead back.
                if member.size < 0 or member.offset_data <= end or tar.offset <= end:
                    raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
                end = member.offset_data
                # The list that tarfile keeps would grow with the shard.
                tar.members.clear()  # type: ignore[attr-defined]
                suffix = PurePosixPath(member.name).suffix.lower()
                if not member.isfile() or suffix not in SUFFIXES:
                    continue
                if member.issparse():
                    place, start, num_bytes = Place.NOWHERE, 0, 0
                elif member.offset_data + member.size > size_bytes:
                    raise tarfile.ReadError(f"it ends within {member.name}")
                else:
                    place, start, num_bytes = Place.PART, member.offset_data, member.size
                num_found += 1
                yield Item(
                    f"{shown(name)}/{shown(member.name)}",
                    b"%s\0%d" % (os.fsencode(name), member.offset_data),
                    place,
                    os.fsencode(shard),
                    start,
                    num_bytes,
                    _SPARSE if place is Place.NOWHERE else "",
                )
            # tarfile takes whatever is no head for the end.
            with shard.open("rb") as file:
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                    raise tarfile.ReadError(f"no member and no end at byte {tar.offset:,}")
    # RecursionError: thousands of heads for one member.
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        reason = f"the shard cannot be read beyond {num_found} images: {first_line(error)}"
        yield Item(
            shown(name), os.fsencode(name) + b"\0rest", Place.NOWHERE, os.fsencode(shard),
            error=reason,
        )  # fmt: skip


class _Heads(io.FileIO):
    """A shard for tarfile, which would take as much memory as a damaged head asks for."""

    def read(self, size: int | None = -1, /) -> bytes:
        if (size or 0) > _LONGEST_HEAD:
            raise tarfile.ReadError(f"a head of {size:,} bytes")
        return super().read(size)
