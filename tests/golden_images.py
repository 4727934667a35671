"""Bundles of colours with golden images: one that knows colours, and one that guesses."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image
from tests.conftest import LABELS, SIZE, make_model, mean_colour_metadata

from limelens.serve.bundle import Golden
from limelens.serve.bundle.golden_images import GoldenImage


def golden_images(count: int = 24, seed: int = 0) -> tuple[GoldenImage, ...]:
    """Plain images, each a little more of its label's colour than of the others."""
    draw = np.random.default_rng(seed)
    return tuple(GoldenImage((LABELS[n % 3],), _image(n % 3, draw)) for n in range(count))


def write_folder(folder: Path, count: int = 24) -> Path:
    """The same as files, in a folder for each label."""
    for number, image in enumerate(golden_images(count, seed=9)):
        path = folder / image.labels[0] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.encoded)
    return folder


def put_bundle(
    folder: Path,
    version: int,
    *,
    gain: float = 6.0,
    images: Sequence[GoldenImage] = (),
    labels: tuple[str, ...] = LABELS,
) -> Path:
    """Writes a version of `colours`; a gain of 0 gives each label the same probability.

    The file appears complete, as `limelens export` writes it.
    """
    path = folder / "colours" / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(".draft")
    draft.write_bytes(colours(gain=gain, images=images, labels=labels).SerializeToString())
    draft.replace(path)
    return path


def colours(
    *,
    gain: float = 6.0,
    images: Sequence[GoldenImage] = (),
    labels: tuple[str, ...] = LABELS,
) -> onnx.ModelProto:
    """A bundle that knows colours as surely as its gain says."""
    metadata = mean_colour_metadata()
    image = metadata.golden.image
    logits = (image.reshape(-1, 3).mean(axis=0) / 255 - 0.5) * gain
    powers = np.exp(logits - logits.max())
    probabilities = (powers / powers.sum()).astype(np.float32)
    metadata = replace(
        metadata,
        labels=labels,
        alert_labels=(),
        macro_labels={},
        golden=Golden(image, probabilities, metadata.golden.tolerance),
        golden_images=tuple(images),
    )
    model = make_model(metadata)
    (weight,) = (one for one in model.graph.initializer if one.name == "gain")
    weight.CopyFrom(numpy_helper.from_array(np.array(gain, np.float32), "gain"))
    return model


def _image(label: int, draw: np.random.Generator) -> bytes:
    pixels = draw.integers(60, 160, (SIZE, SIZE, 3), dtype=np.uint8)
    pixels[..., label] += 80
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()
