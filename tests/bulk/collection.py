"""A small folder of images, good and bad, and what is made of it by the command line."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from limelens.bulk.work import BulkImage, WorkSpec
from limelens.serve.image import SUFFIXES

GOOD, BAD = 21, 6


def write_images(folder: Path) -> Path:
    """Writes noise around many colours in several formats and sizes, and files that are broken."""
    draw = np.random.default_rng(0)
    for number in range(GOOD):
        level = draw.integers(0, 256, 3)
        size = int(draw.integers(20, 90)), int(draw.integers(20, 90)), 3
        pixels = np.clip(level + draw.normal(0, 20, size), 0, 255).astype(np.uint8)
        mode = ("RGB", "CMYK", "L")[number % 3]
        suffix = ("jpg", "tiff.jpg", "png")[number % 3]
        kind = {"jpg": "JPEG", "tiff.jpg": "JPEG", "png": "PNG"}[suffix]
        Image.fromarray(pixels).convert(mode).save(folder / f"{number:02}.{suffix}", kind)
    whole = (folder / "00.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<html>not found</html>")
    (folder / "bomb.png").write_bytes(_claiming(60_000, 60_000))
    (folder / "noise.webp").write_bytes(draw.bytes(4096))
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "TIFF")
    (folder / "scan.png").write_bytes(file.getvalue())
    return folder


def read_images(folder: Path) -> list[BulkImage]:
    """The files as a worker gets them, named as `limelens classify FOLDER` names them."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    return [BulkImage(str(path), path.read_bytes()) for path in paths]


def rows_of(spec: WorkSpec, images: Sequence[BulkImage], num_threads: int = 2) -> list[Any]:
    """The rows as they are read back from a table of the spec's schema."""
    work = spec.open(num_threads)
    rows: list[Any] = pa.Table.from_pylist([*work(images)], schema=spec.schema).to_pylist()
    return rows


def answers(*arguments: object) -> Any:
    """What a command prints as JSON; it may exit with 1, as for images that cannot be read."""
    command = [sys.executable, "-m", "limelens.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def _claiming(height: int, width: int) -> bytes:
    """A PNG of one pixel whose header claims more."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    data = file.getvalue()
    head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
