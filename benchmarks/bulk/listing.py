"""Measures what listing and planning a folder costs before the first image is read.

    python -m benchmarks.bulk.listing [--files 1000000] [--folders 1000]

The files are links to a few empty ones, in a temporary folder. Memory is what the process had at
most beyond what it had with everything imported.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from limelens.bulk.plan import write_plan
from limelens.bulk.sources import open_source

_UNIT: Final = 512
_LINKS: Final = 10_000
"""To one file; file systems allow some ten thousand."""


def main() -> None:
    """Writes the folder, lists and plans it, and prints what that took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        _write(images, arguments.files, arguments.folders)
        imported = _most_bytes()
        begun = time.perf_counter()
        source = open_source(str(images))
        listed_s, listed = time.perf_counter() - begun, _most_bytes()
        plan = write_plan(Path(folder, "plan"), source.chunks(_UNIT), np.empty(0, np.uint64))
        planned_s, planned = time.perf_counter() - begun, _most_bytes()
        print(f"{plan.num_images:,} images in {arguments.folders:,} folders")
        print(f"listed: {listed_s:.1f} s, {(listed - imported) / 1e6:.0f} MB")
        print(f"and planned: {planned_s:.1f} s, {(planned - imported) / 1e6:.0f} MB")


def _write(images: Path, num_files: int, num_folders: int) -> None:
    for number in range(num_folders):
        (images / f"{number:06}").mkdir(parents=True)
    linked = images
    for number in range(num_files):
        path = images / f"{number % num_folders:06}" / f"image-{number:08}.jpg"
        if number % _LINKS:
            path.hardlink_to(linked)
        else:
            path.touch()
            linked = path


def _most_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
