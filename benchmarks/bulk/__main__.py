"""Measures bulk work: classifying against raw onnxruntime, explaining against in-process.

    python -m benchmarks.bulk [--only classify|explain] [--model FILE …] [--images 4000]
        [--explained 24] [--size 640] [--workers CORES] [--chunks 4 8 16] [--rounds 5]
        [--no-command]

The floor of classifying is a short program without limelens: Pillow decodes a file and resizes it
as the model wants it, and onnxruntime runs the model, in as many threads or processes as there are
workers, with several chunk sizes; the fastest counts. The model alone, on pixels that lie ready,
is shown beside it. The floor of explaining is a client without a server in one thread, one image
after another, times the workers.

All rows alternate in one run, in another order each round. A ratio is the median over rounds of a
row's rate divided by the floor's in the same round. The command's rate is of all of it, with the
start of Python and of Ray, which does not grow with the images; by its own count it is without.

Without --model: the shipped model, and a MobileNetV3-small at 224 pixels that is made on the first
run.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.bulk.floors import CHUNKS, floor_rows
from benchmarks.bulk.ours import in_process_rows, our_rows
from benchmarks.bulk.rows import Row, alternate, print_table
from benchmarks.speed_models import network_model, shipped_model
from limelens.bulk.classifying import classify_work
from limelens.bulk.explaining import explain_work
from limelens.serve.bundle import read_metadata
from limelens.serve.bundle.folder import FILE_NAME
from limelens.serve.image import ResizeMode
from limelens.serve.processes.layout import usable_cores
from limelens.train.synthetic import write_dataset

_DRAWN: Final = 48


def main() -> None:
    """Measures and prints a table for each model and kind of work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("classify", "explain"))
    parser.add_argument("--model", type=Path, action="append")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--explained", type=int, default=24)
    parser.add_argument("--size", type=int, default=640, help="of the images, in pixels")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--chunks", type=int, nargs="+", default=CHUNKS, help="of the floors")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-command", action="store_true", help="leave out Ray")
    arguments = parser.parse_args()
    size, workers, rounds = arguments.size, arguments.workers, arguments.rounds
    counts = {"classify": arguments.images, "explain": arguments.explained}
    models = arguments.model or [shipped_model(), network_model("mobilenet_v3_small")]
    with tempfile.TemporaryDirectory() as folder:
        for kind in [arguments.only] if arguments.only else counts:
            images = _write_images(Path(folder) / kind, counts[kind], size)
            for model in models:
                path = model / FILE_NAME if model.is_dir() else model
                with ExitStack() as stack:
                    rows = _rows(kind, path, images, workers, arguments.chunks, stack)
                    if arguments.no_command:
                        rows.pop()
                    alternate(rows, len(images), rounds)
                name = read_metadata(path).name
                what = f"{len(images)} JPEGs of {size}x{size}"
                print_table(f"{kind}, {name}: {what}, {workers} workers, {rounds} rounds", rows)


def _rows(
    kind: str,
    model: Path,
    images: list[Path],
    workers: int,
    chunks: Sequence[int],
    stack: ExitStack,
) -> list[Row]:
    if kind == "explain":
        spec = explain_work(model, device="cpu")
        return in_process_rows(model, images, workers) + our_rows(
            kind, model, spec, images, workers
        )
    rule = read_metadata(model).resize
    if rule.mode is not ResizeMode.STRETCH:
        raise SystemExit(f"{model}: its images are {rule.mode}; expected a model that stretches")
    floors = floor_rows(model, (rule.height, rule.width), images, workers, chunks, stack)
    return floors + our_rows(kind, model, classify_work(model, device="cpu"), images, workers)


def _write_images(folder: Path, count: int, size: int) -> list[Path]:
    """JPEGs of drawn faces, each face many times."""
    folder.mkdir()
    with tempfile.TemporaryDirectory() as drawn_in:
        write_dataset(Path(drawn_in), _DRAWN // 4, seed=0, size=size)
        drawn = sorted(Path(drawn_in).rglob("*.jpg"))
        paths = [folder / f"{number:06}.jpg" for number in range(count)]
        for number, path in enumerate(paths):
            shutil.copyfile(drawn[number % len(drawn)], path)
    return paths


if __name__ == "__main__":
    main()
