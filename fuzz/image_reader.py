"""Fuzzes the image reader, guided by coverage: `python -m fuzz.image_reader --seconds 600`.

The rules: for any bytes, `read_image` returns upright RGB pixels within the limit or raises
InvalidImageError; the same bytes give the same pixels again; the pixels can be fitted to any input.
The fuzzer (Atheris with libFuzzer) is loaded only when this module runs; `check` alone needs only
the reader. A file that breaks a rule is left in `--findings`; give it as an argument to see the
error.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

MAX_PIXELS: Final = 500_000
MAX_BYTES: Final = 1 << 14
MAX_RSS_MB: Final = 1024
MAX_SECONDS_EACH: Final = 20
_SIZE: Final = (20, 32)


def check(data: bytes) -> bool:
    """Reads bytes as an image.

    Returns:
        Whether they are an image.

    Raises:
        BrokenRuleError: The reader broke a rule.
        Exception: The reader raised a forbidden error.
    """
    # Imported here: the fuzzer measures coverage only of modules loaded after it starts.
    from limelens.serve.errors import InvalidImageError
    from limelens.serve.image import DecodeLimits, Region, ResizeMode, ResizeRule, fit, read_image

    try:
        pixels = read_image(data, DecodeLimits(MAX_PIXELS))
    except InvalidImageError as error:
        _require(bool(str(error)), "a reason is given")
        str(error).encode()  # it can be sent
        return False
    _require(pixels.dtype == np.uint8, "pixels are uint8")
    _require(pixels.ndim == 3 and pixels.shape[2] == 3, "pixels are (H, W, 3)")
    height, width = pixels.shape[:2]
    _require(1 <= height * width <= MAX_PIXELS, "the image is within the limit")
    again = read_image(data, DecodeLimits(MAX_PIXELS))
    _require(np.array_equal(pixels, again), "the same bytes give the same pixels")
    # Any region, but the same one for the same bytes.
    edges = np.frombuffer(zlib.crc32(data).to_bytes(4, "big"), np.uint8) / 256
    region = Region(edges[0] / 2, edges[1] / 2, 0.5 + edges[2] / 2, 0.51 + edges[3] / 3)
    for mode in ResizeMode:
        for part in (None, region):
            fitted = fit(pixels, ResizeRule(*_SIZE, mode), part)
            _require(fitted.pixels.shape == (*_SIZE, 3), "the fitted image has the input's size")
            left, top, right, bottom = fitted.source_box
            _require(0 <= left < right <= width, "the input region is within the image's width")
            _require(0 <= top < bottom <= height, "the input region is within the image's height")
    return True


class BrokenRuleError(Exception):
    """The reader broke a rule."""


def write_corpus(folder: Path) -> int:
    """Writes the images that fuzzing starts from into a folder.

    Returns:
        How many there are: those made by code, and small ones of the bad set in LIMELENS_DATA,
        if that is set.
    """
    from fuzz.images import bad_images, good_images

    folder.mkdir(parents=True, exist_ok=True)
    found = {**good_images(), **bad_images()}
    data = os.environ.get("LIMELENS_DATA")
    if data:
        for path in sorted((Path(data) / "badimages").glob("*.*")):
            if path.stat().st_size <= MAX_BYTES:
                found[f"bad_set_{path.name}"] = path.read_bytes()
    for name, content in found.items():
        (folder / name).write_bytes(content)
    return len(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the given files once, or fuzzes for a while; exit code 0 only if no rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.image_reader", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="read these once, and do not fuzz")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz/image_reader"))
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz/found"))
    parser.add_argument("--seed", type=int, default=0, help="the same tries again; 0 is any")
    chosen = parser.parse_args(arguments)
    if chosen.files:
        for path in chosen.files:
            print(path, "read" if check(path.read_bytes()) else "refused")
        return
    _fuzz(chosen.corpus, chosen.findings, chosen.seconds, chosen.seed)


def _fuzz(corpus: Path, findings: Path, seconds: int, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["PIL", "limelens.serve.image"]):
        from PIL import Image

        Image.init()  # loads the module of every format
    from fuzz.images import with_checksums

    findings.mkdir(parents=True, exist_ok=True)
    print(f"{write_corpus(corpus)} images to begin with in {corpus}", flush=True)

    def mutate(data: bytes, max_size: int, number: int) -> bytes:
        changed: bytes = atheris.Mutate(data, max_size)
        # Sometimes wrong checksums are tried too.
        return changed if random.Random(number).random() < 0.1 else with_checksums(changed)

    atheris.Setup(
        [
            "fuzz.image_reader",
            str(corpus),
            f"-max_total_time={seconds}",
            f"-max_len={MAX_BYTES}",
            f"-rss_limit_mb={MAX_RSS_MB}",
            f"-timeout={MAX_SECONDS_EACH}",
            f"-artifact_prefix={findings}/",
            f"-seed={seed}",
            "-print_final_stats=1",
        ],
        lambda data: check(data),
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise BrokenRuleError(f"broken: {rule}")


if __name__ == "__main__":
    main(sys.argv[1:])
