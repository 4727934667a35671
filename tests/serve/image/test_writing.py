from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limelens.serve.image.writing import write_encoded, write_image

PIXELS = np.zeros((20, 30, 3), np.uint8) + np.uint8(90)
FORMATS = {"a.png": "PNG", "a.jpg": "JPEG", "a.JPEG": "JPEG", "a.webp": "WEBP", "a": "PNG"}


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_pixels_are_written_in_the_format_of_the_suffix(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / name, PIXELS)
    with Image.open(tmp_path / name) as written:
        assert written.format == FORMATS[name]
        assert np.abs(np.asarray(written).astype(int) - 90).max() <= 2


def test_an_encoded_image_stays_as_it_is_unless_its_suffix_says_otherwise(tmp_path: Path) -> None:
    for name, data in (("a.jpg", encoded("JPEG")), ("a", encoded("JPEG")), ("a.png", b"damaged")):
        write_encoded(tmp_path / name, data)
        assert (tmp_path / name).read_bytes() == data
    write_encoded(tmp_path / "a.png", encoded("JPEG"), mode=0o600)
    with Image.open(tmp_path / "a.png") as written:
        assert written.format == "PNG"


def test_an_image_that_is_too_large_for_a_format_is_said_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"a\.webp: cannot be written as WEBP"):
        write_image(tmp_path / "a.webp", np.zeros((1, 20_000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
