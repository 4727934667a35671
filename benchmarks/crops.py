"""Measures whether `limelens inspect` finds images that were cut out of others.

Of some images of each folder a rectangle is saved as a JPEG anew: 5 to 25 % of the width, of the
height or of both are cut away, anywhere at the sides; half of them are scaled too. They are then
looked for among all images. *found* is the share that is paired with the image that it came from;
*wrong* counts those that are paired as a crop with another one. *given* are pairs of crops among
the images of the folder, true or false: `--pairs` prints them, to be looked at.

    python -m benchmarks.crops DATA [DATA …] [--crops 300] [--seed 0] [--pairs] [--json]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from limelens.cli.terminal.printing import print_json
from limelens.serve.errors import LimelensError
from limelens.serve.image import read_image
from limelens.train.audit.cropped_copies import find_crops
from limelens.train.audit.duplicates import Duplicate, ImageLocation, find_duplicates
from limelens.train.audit.image_facts import ImageFacts, read_facts
from limelens.train.data.listing import list_data

_CUT: Final = (0.05, 0.25)
_SCALES: Final = (0.6, 1.2)
_QUALITIES: Final = (60, 95)


def main() -> None:
    """Measures each folder and prints a table, or one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+", help="as for limelens train")
    parser.add_argument("--crops", type=int, default=300, help="of each folder")
    parser.add_argument("--seed", type=int, default=0, help="of the images and rectangles")
    parser.add_argument("--pairs", action="store_true", help="print pairs of the images as given")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.crops < 1:
        parser.error("--crops must be at least 1")
    try:
        rows = [measure(data, arguments.crops, arguments.seed) for data in arguments.data]
    except (LimelensError, OSError) as error:
        sys.exit(f"benchmarks.crops: {error}")
    if arguments.json:
        print_json({"sets": rows})
        return
    _print(rows, pairs=arguments.pairs)


def measure(data: Path, num_crops: int = 300, seed: int = 0) -> dict[str, Any]:
    """Plants crops beside the images of a folder, and looks for them.

    Returns:
        A row of what `--json` prints.

    Raises:
        DataError: The folder is not data as for `limelens train`.
    """
    listing = list_data(data)
    paths = [example.path for examples in listing.splits.values() for example in examples]
    rng = np.random.default_rng(seed)
    origins = rng.choice(len(paths), min(num_crops, len(paths)), replace=False).tolist()
    with tempfile.TemporaryDirectory() as folder:
        planted = [
            _saved(Path(folder) / f"{number}.jpg", paths[origin], rng)
            for number, origin in enumerate(origins)
        ]
        start = time.process_time()
        read = list(read_facts([*paths, *planted], features=True))
        reading_s = time.process_time() - start
    facts = {
        path: fact
        for path, fact in zip([*paths, *planted], read, strict=True)
        if isinstance(fact, ImageFacts)
    }
    start = time.process_time()
    find_crops(np.stack([fact.thumbnail for fact in facts.values()]))
    crops_s = time.process_time() - start
    pairs = find_duplicates(
        [ImageLocation(path, "all", ()) for path in facts], list(facts.values())
    )
    by_second = {pair.second.path: pair for pair in pairs}
    found = [by_second.get(path) for path in planted]
    right = [
        pair is not None and pair.first.path == paths[origin]
        for pair, origin in zip(found, origins, strict=True)
    ]
    return {
        "data": str(data),
        "num_images": len(paths),
        "num_crops": len(planted),
        "found": float(np.mean(right)),
        "as": dict(
            Counter(pair.kind for pair, ok in zip(found, right, strict=True) if pair and ok)
        ),
        "wrong": sum(
            pair is not None and pair.kind == "cropped" and not ok
            for pair, ok in zip(found, right, strict=True)
        ),
        "given": _given(pairs, set(paths)),
        "reading_cpu_s": reading_s,
        "crops_cpu_s": crops_s,
    }


def _given(pairs: Sequence[Duplicate], paths: set[Path]) -> list[list[str]]:
    return [
        [str(pair.first.path), str(pair.second.path)]
        for pair in pairs
        if pair.kind == "cropped" and {pair.first.path, pair.second.path} <= paths
    ]


def _saved(path: Path, origin: Path, rng: np.random.Generator) -> Path:
    """Cuts a rectangle out of an image and saves it as a JPEG."""
    image = Image.fromarray(read_image(origin.read_bytes()))
    kept = 1 - rng.uniform(*_CUT, 2)
    which = rng.integers(4)
    if which < 2:
        kept[which] = 1.0
    box = _box(np.array(image.size), kept, rng.random(2))
    image = image.crop(box)
    if rng.random() < 0.5:
        scale = rng.uniform(*_SCALES)
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        )
    image.save(path, "JPEG", quality=int(rng.integers(*_QUALITIES)))
    return path


def _box(
    size: NDArray[np.int64], kept: NDArray[np.float64], place: NDArray[np.float64]
) -> tuple[int, int, int, int]:
    start = (size * (1 - kept) * place).round().astype(int)
    end = np.maximum((start + size * kept).round().astype(int), start + 1)
    return int(start[0]), int(start[1]), int(end[0]), int(end[1])


def _print(rows: Sequence[dict[str, Any]], *, pairs: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("data", "images", "crops", "found", "wrong", "given", "CPU, s (reading)"):
        table.add_column(column, justify="left" if column == "data" else "right")
    for row in rows:
        table.add_row(
            Path(row["data"]).name,
            str(row["num_images"]),
            str(row["num_crops"]),
            f"{row['found']:.3f}",
            str(row["wrong"]),
            str(len(row["given"])),
            f"{row['crops_cpu_s']:.1f} ({row['reading_cpu_s']:.1f})",
        )
    console = Console()
    console.print(table)
    if pairs:
        for row in rows:
            for pair in row["given"]:
                console.print(*pair, sep="\n  ", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
