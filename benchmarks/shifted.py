"""Measures classifiers of faces on validation images, as they are and as another source has them.

Each image is seen three times: cut around its face as a server does it with a margin of 0 to 0.6,
cut at its rims, and with more around it; then turned, with fewer pixels or blurred, in other light
and colours, with noise, and as a JPEG of low quality. The images are the same in every run. No test
image is read, so a model may be chosen by these figures.

    LIMELENS_DATA=… python -m benchmarks.shifted [--model models/facemask/2 …]
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table

from benchmarks.speed_models import shipped_model
from limelens.serve import load_bundle
from limelens.serve.faces.detector import FaceDetector, load_detector
from limelens.serve.image import read_fitted, read_image

_LABELS: Final = ("with_mask", "without_mask")
_KINDS: Final = 3
_SEED: Final = 7


def main() -> None:
    """Prints one table: a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, action="append", help="a bundle; may be repeated")
    arguments = parser.parse_args()
    data = os.environ.get("LIMELENS_DATA")
    if not data:
        sys.exit("LIMELENS_DATA is not set; it names the folder that holds facemask")
    images = _images(Path(data) / "facemask" / "val")
    table = Table(title=f"{len(images['as they are'])} validation images of facemask")
    for column in ("model", *(f"{kind}: {what}" for kind in images for what in ("right", "loss"))):
        table.add_column(column, justify="left" if column == "model" else "right")
    for path in arguments.model or [shipped_model()]:
        bundle = load_bundle(path, "cpu")
        row = [str(path)]
        for encoded in images.values():
            found = np.concatenate(
                [
                    bundle.predict(read_fitted(one, bundle.metadata.resize)[None])
                    for one, _ in encoded
                ]
            )
            true = np.array([bundle.labels.index(label) for _, label in encoded])
            loss = -np.log(np.clip(found[np.arange(len(true)), true], 1e-7, 1)).mean()
            row += [f"{(found.argmax(1) == true).mean():.4f}", f"{loss:.4f}"]
        table.add_row(*row)
    Console().print(table)


def _images(folder: Path) -> dict[str, list[tuple[bytes, str]]]:
    """Encoded images and their labels."""
    detector = load_detector(device="cpu")
    plain, shifted = [], []
    for label in _LABELS:
        for number, path in enumerate(sorted((folder / label).iterdir())):
            plain.append((path.read_bytes(), label))
            pixels = read_image(path.read_bytes())
            for kind in range(_KINDS):
                rng = np.random.default_rng([number, kind, label == "with_mask", _SEED])
                shifted.append((_shifted(pixels, kind, detector, rng), label))
    return {"as they are": plain, "shifted": shifted}


def _shifted(
    pixels: NDArray[np.uint8], kind: int, detector: FaceDetector, rng: np.random.Generator
) -> bytes:
    image = _framed(pixels, kind, detector, rng)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.4:
        degrees = float(rng.uniform(-15, 15))
        fill = tuple(int(value) for value in rng.integers(0, 255, 3))
        image = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=fill)
    if rng.random() < 0.5:
        scale = int(rng.integers(32, 90)) / min(image.size)
        fewer = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
        image = image.resize(fewer, Image.Resampling.BILINEAR)
    elif rng.random() < 0.5:
        radius = float(rng.uniform(0.5, 2)) * max(image.size) / 160
        image = image.filter(ImageFilter.GaussianBlur(radius))
    light = np.asarray(image, dtype=np.float32) / 255
    light = np.clip(light, 0, 1) ** float(np.exp(rng.normal(0, 0.35)))
    light = light * np.exp(rng.normal(0, 0.12, 3)).astype(np.float32)
    light = light * float(np.exp(rng.normal(0, 0.15)))
    if rng.random() < 0.1:
        light = np.repeat(light.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.3:
        light = light + rng.normal(0, rng.uniform(0.01, 0.06), light.shape)
    file = io.BytesIO()
    image = Image.fromarray((np.clip(light, 0, 1) * 255).astype(np.uint8))
    image.save(file, "JPEG", quality=int(rng.integers(15, 80)))
    return file.getvalue()


def _framed(
    pixels: NDArray[np.uint8], kind: int, detector: FaceDetector, rng: np.random.Generator
) -> Image.Image:
    """Another part of the photo, or more than the photo."""
    height, width = pixels.shape[:2]
    found = detector.detect(pixels) if kind == 0 else []
    if found:
        part = found[0].region(float(rng.uniform(0, 0.6)), height, width)
        left, top = round(part.left * width), round(part.top * height)
        right, bottom = round(part.right * width), round(part.bottom * height)
        box = (left, top, max(left + 8, right), max(top + 8, bottom))
        return Image.fromarray(pixels).crop(box)
    if kind < 2:
        cut = rng.uniform(0, 0.15, 4)
        left, top = round(cut[0] * width), round(cut[1] * height)
        right, bottom = round(width - cut[2] * width), round(height - cut[3] * height)
        return Image.fromarray(pixels).crop((left, top, right, bottom))
    above, below, before, after = (
        round(one * side)
        for one, side in zip(rng.uniform(0, 0.5, 4), (height, height, width, width), strict=True)
    )
    mode: Literal["edge", "reflect"] = "edge" if rng.integers(2) == 0 else "reflect"
    return Image.fromarray(np.pad(pixels, ((above, below), (before, after), (0, 0)), mode=mode))


if __name__ == "__main__":
    main()
