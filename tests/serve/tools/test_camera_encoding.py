"""Frames as JPEG files, with and without the faster library."""

from __future__ import annotations

import io
import sys

import av
import numpy as np
import pytest
from PIL import Image

from limelens.serve.image import read_image
from limelens.serve.tools.camera.video import to_jpeg


@pytest.mark.parametrize("quality", [40, 90])
def test_the_faster_library_is_as_close_to_the_pixels(
    monkeypatch: pytest.MonkeyPatch, quality: int
) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:122, 0:162]
    pixels = np.stack([rows, columns, rows + columns], axis=-1) % 256
    noisy = (pixels + rng.integers(0, 20, pixels.shape)).clip(0, 255).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(noisy, format="rgb24").reformat(format="yuv420p")
    seen = frame.to_ndarray(format="rgb24").astype(int)
    fast = to_jpeg(frame, quality)
    fast_error = np.abs(read_image(fast) - seen).mean()
    monkeypatch.setitem(sys.modules, "simplejpeg", None)  # as if it were not installed
    plain = to_jpeg(frame, quality)
    assert fast != plain
    assert fast_error <= 1.02 * np.abs(read_image(plain) - seen).mean()
    with Image.open(io.BytesIO(fast)) as one, Image.open(io.BytesIO(plain)) as other:
        assert (one.size, one.quantization) == (other.size, other.quantization)  # type: ignore[attr-defined]
