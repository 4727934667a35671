"""WebDataset's shards: tar files whose members are images and what belongs to them.

Only the heads of members are read here. A shard that ends too early, or is damaged, has its images
up to there, and one row that says why the rest is missing.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from limelens.bulk.sources.item import Item, Place
from limelens.bulk.sources.source import in_chunks, shown, signature
from limelens.serve.image import SUFFIXES
from limelens.serve.wording import first_line


@dataclass(frozen=True)
class Shards:
    """Tar files.

    Args:
        root: The folder in which they are.
        names: Paths in the folder, sorted.
    """

    root: Path
    names: Sequence[str]
    column: str = ""

    @property
    def made_of(self) -> Mapping[str, str]:
        """See `Source`."""
        return {"kind": "shards", "path": shown(self.root.resolve())}

    @property
    def files(self) -> Mapping[str, tuple[int, int]]:
        """See `Source`."""
        return {shown(name): signature(self.root / name) for name in self.names}

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
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                # The list that tarfile keeps would grow with the shard.
                tar.members.clear()  # type: ignore[attr-defined]
                suffix = PurePosixPath(member.name).suffix.lower()
                if not member.isfile() or suffix not in SUFFIXES:
                    continue
                if member.offset_data + member.size > size_bytes:
                    raise tarfile.ReadError(f"it ends within {member.name}")
                num_found += 1
                yield Item(
                    f"{shown(name)}/{shown(member.name)}",
                    b"%s\0%d" % (os.fsencode(name), member.offset_data),
                    Place.PART,
                    os.fsencode(shard),
                    member.offset_data,
                    member.size,
                )
            # tarfile takes whatever is no head for the end.
            with shard.open("rb") as file:
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                    raise tarfile.ReadError(f"no member and no end at byte {tar.offset:,}")
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = f"the shard cannot be read beyond {num_found} images: {first_line(error)}"
        yield Item(
            shown(name), os.fsencode(name) + b"\0rest", Place.NOWHERE, os.fsencode(shard),
            error=reason,
        )  # fmt: skip
