"""Bulk work as limelens does it: its part without Ray in this process, and the whole command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bulk.rows import Row
from limelens.bulk.work import BulkImage, WorkSpec
from limelens.serve.bundle import load_bundle
from limelens.serve.client.in_process import LocalClient, LocalStub
from limelens.serve.faces.detector import load_detector


def our_rows(
    kind: str, model: Path, spec: WorkSpec, images: Sequence[Path], workers: int
) -> list[Row]:
    """The work in threads of this process, and `limelens bulk`.

    Args:
        kind: `classify` or `explain`.
        model: The model's file.
        spec: The same work.
        images: All files of a folder.
        workers: Threads here, processes of the command.
    """
    work = spec.open(workers)

    def in_threads() -> None:
        for first in range(0, len(images), work.batch_size):
            batch = images[first : first + work.batch_size]
            _check(work([BulkImage(path.name, path.read_bytes()) for path in batch]))

    return [
        Row(f"without Ray, one process of {workers} threads", in_threads),
        Row(
            f"limelens bulk {kind}, {workers} workers",
            lambda: _command(kind, model, images[0].parent, workers),
            is_here=False,
        ),
    ]


def in_process_rows(model: Path, images: Sequence[Path], workers: int) -> list[Row]:
    """Explanations one after another in this process, in one thread and in one a core."""

    def row(name: str, num_threads: int, scale: float, *, is_floor: bool) -> Row:
        bundle = load_bundle(model, "cpu", num_threads=num_threads)
        client = LocalClient.over(LocalStub(bundle, load_detector))

        def run() -> None:
            for path in images:
                client.explain(path, seed=0)

        return Row(name, run, is_floor, scale)

    return [
        row(f"in-process, 1 thread, times {workers}", 1, workers, is_floor=True),
        row(f"in-process, {workers} threads for each image", workers, 1, is_floor=False),
    ]


def _check(rows: Sequence[Mapping[str, Any]]) -> None:
    if errors := [row["error"] for row in rows if row.get("error")]:
        raise RuntimeError(f"{len(errors)} errors; the first: {errors[0]}")


def _command(kind: str, model: Path, folder: Path, workers: int) -> float:
    """Runs the command, and returns the images a second that it says."""
    out = Path(tempfile.mkdtemp()) / "out"
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "limelens.cli", "bulk", kind, str(folder)),
                *("--model", str(model), "--out", str(out), "--device", "cpu"),
                *("--workers", str(workers), "--threads", "1", "--json"),
            ],
            stdout=subprocess.PIPE,
            check=True,
        )
    finally:
        shutil.rmtree(out.parent)
    report = json.loads(done.stdout)
    if report["errors"]:
        raise RuntimeError(f"{report['errors']} errors of {report['images']} images")
    return float(report["images_per_second"])
