"""A small real work: the size of each image. An image of the bytes KILL ends the process."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from limelens.bulk.part import part_name
from limelens.bulk.plan import write_plan
from limelens.bulk.sources import Reader, open_source
from limelens.bulk.unit import PLAN, Units
from limelens.bulk.work import BulkImage, Work

KILL, RAISE = b"KILL", b"RAISE"
RUN = 1
NONE = np.empty(0, np.uint64)


@dataclass(frozen=True)
class SizeWork:
    """Reads sizes, `batch_size` images at a time."""

    batch_size: int = 4

    @property
    def schema(self) -> pa.Schema:
        numbers = [(name, pa.int32()) for name in ("width", "height")]
        texts = [(name, pa.string()) for name in ("path", "error_code", "error")]
        return pa.schema(texts + numbers)

    def fingerprint(self) -> str:
        return f"sizes {self.batch_size}"

    def open(self, num_threads: int) -> Work:
        del num_threads
        return self

    def __call__(self, images: Sequence[BulkImage]) -> list[Mapping[str, Any]]:
        return [_row(image) for image in images]


def _row(image: BulkImage) -> Mapping[str, Any]:
    if image.data is None:
        return {"path": image.path, "error_code": "UNREADABLE", "error": image.error}
    if image.data == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if image.data == RAISE:
        raise RuntimeError("the model broke")
    try:
        with Image.open(io.BytesIO(image.data)) as file:
            return {"path": image.path, "width": file.width, "height": file.height}
    except OSError as error:
        return {"path": image.path, "error_code": "INVALID_IMAGE", "error": str(error)}


def write_image(path: Path, width: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 2)).save(path, "PNG")
    return path


def plan_of(folder: Path, staging: Path, most: int = 100) -> None:
    """Plans a folder, with nothing done."""
    staging.mkdir(exist_ok=True)
    write_plan(staging / PLAN, open_source(str(folder)).chunks(most), NONE)


def do_unit(out: Path, staging: Path, batch_size: int = 4, number: int = 0) -> Any:
    """Does a unit in this process, and returns what came of it."""
    work = SizeWork(batch_size)
    return Units(out, staging, RUN, work, work.schema, Reader()).do(number)


def part_of(out: Path, number: int = 0) -> Path:
    return out / part_name(RUN, number)
