"""Bytes to pixels: golden results."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from limelens.serve.errors import ImageTooLargeError, InvalidImageError, InvalidRequestError
from limelens.serve.image import (
    UNSEEN,
    DecodeLimits,
    Region,
    ResizeMode,
    ResizeRule,
    fit,
    raw_image,
    read_fitted,
    read_image,
)
from limelens.serve.image.decoding import decode_with
from limelens.serve.image.fitting import Pixels, fitted
from limelens.serve.image.formats import inspect


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def quadrants(height: int = 64, width: int = 96) -> np.ndarray:
    """Red, green / blue, yellow."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    pixels[:top, :left, 0] = 255
    pixels[:top, left:, 1] = 255
    pixels[top:, :left, 2] = 255
    pixels[top:, left:] = 255, 255, 0
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(data_folder: Path, orientation: int) -> None:
    folder = data_folder / "badimages"
    found = read_image((folder / f"exif_orientation_{orientation}.jpg").read_bytes())
    expected = read_image((folder / "exif_upright_expected.png").read_bytes())
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 8


def test_sixteen_bit_ramp_is_scaled_and_not_clipped(data_folder: Path) -> None:
    found = read_image((data_folder / "badimages" / "gray16.png").read_bytes())
    expected = np.linspace(0, 255, found.shape[1])
    assert found.shape == (64, 96, 3)
    assert np.abs(found[10, :, 0] - expected).max() <= 1


def test_sixteen_bit_values_round_to_the_nearest() -> None:
    values = np.array([[0, 128, 129, 257, 65535, 32896]], dtype=np.uint16)
    assert read_image(encode(values))[0, :, 0].tolist() == [0, 0, 1, 1, 255, 128]


def test_transparency_is_put_over_white() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, :2, 3] = 255
    pixels[:, 2:] = 200, 0, 0, 0
    found = read_image(encode(pixels))
    assert (found[:, :2] == 0).all()
    assert (found[:, 2:] == 255).all()


@pytest.mark.parametrize("height", [2, 3000])
def test_a_transparent_value_of_sixteen_bit_grey_is_put_over_white(height: int) -> None:
    values = np.tile(np.array([0, 30_000, 65_535, 256], np.uint16), (height, 500))
    data = encode(values)
    transparent = b"tRNS" + struct.pack(">H", 30_000)
    chunk = struct.pack(">I", 2) + transparent + struct.pack(">I", zlib.crc32(transparent))
    place = data.index(b"IDAT") - 4
    found = read_image(data[:place] + chunk + data[place:])
    assert found[0, :4].tolist() == [[0] * 3, [255] * 3, [255] * 3, [1] * 3]
    assert (found == found[0, np.arange(2000) % 4]).all()


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "L with transparency"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_image_is_read_as_its_parts_are(
    monkeypatch: pytest.MonkeyPatch, mode: str, orientation: int
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 30, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(noise.view(np.uint16)[..., 0])
    else:
        image = Image.fromarray(noise).convert(mode[:1] if " " in mode else mode)
    options: dict[str, Any] = {"transparency": 77} if mode[:2] in ("P", "L ", "I;") else {}
    file = io.BytesIO()
    image.save(file, "TIFF" if mode in ("CMYK", "PA") else "PNG", **options)
    stored = Image.open(file)
    whole = Pixels(stored, orientation).array()
    assert whole.shape == ((30, 40, 3) if orientation >= 5 else (40, 30, 3))
    rgb = np.asarray(Pixels(stored).part((0, 0, 30, 40)))
    assert np.array_equal(whole, np.asarray(ImageOps.exif_transpose(turned(rgb, orientation))))
    monkeypatch.setattr("limelens.serve.image.fitting._STRIP_PIXELS", 200)
    assert np.array_equal(Pixels(stored, orientation).array(), whole)
    rule, region = ResizeRule(5, 4), Region(0.1, 0.2, 0.9, 1.0)
    assert np.array_equal(
        fitted(Pixels(stored, orientation), rule, region).pixels, fit(whole, rule, region).pixels
    )


def turned(pixels: np.ndarray, orientation: int) -> Image.Image:
    """An image with an EXIF orientation."""
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return image


PEAK = """
import sys
from limelens.serve.image import read_image
def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024
data = sys.stdin.buffer.read()
before = peak()
assert read_image(data).shape == (5000, 5000, 3)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_transparency_takes_no_multiple_of_memory() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (5000, 5000)).save(file, "PNG")
    found = subprocess.run(
        [sys.executable, "-c", PEAK], input=file.getvalue(), capture_output=True, check=True
    )
    # Decoded at 4 bytes a pixel, given back at 3: 167 MiB.
    assert int(found.stdout) < 220


def test_cmyk_and_palette_and_bilevel_become_rgb(data_folder: Path) -> None:
    folder = data_folder / "badimages"
    cmyk = read_image((folder / "cmyk.jpg").read_bytes()).astype(int)
    corners = cmyk[[5, 5, -5, -5], [5, -5, 5, -5]]
    assert np.array_equal(corners > 128, quadrants()[[5, 5, -5, -5], [5, -5, 5, -5]] > 128)
    for name in ("palette_transparent.png", "bilevel.png", "la.png", "gray.jpg"):
        assert read_image((folder / name).read_bytes()).shape == (64, 96, 3)


def test_first_frame_of_an_animation_is_taken(data_folder: Path) -> None:
    found = read_image((data_folder / "badimages" / "animated.gif").read_bytes())
    assert found.shape == (48, 64, 3)
    assert found[24, 32].tolist()[0] > 200
    assert found[24, 32].tolist()[1:] == [0, 0]


def test_every_file_of_the_bad_set_is_read_or_refused(data_folder: Path) -> None:
    rows = (data_folder / "badimages" / "index.csv").read_text().splitlines()[1:]
    errors = {"invalid": InvalidImageError, "too_large": ImageTooLargeError}
    for row in rows:
        name = row.split(",")[0]
        expected = next(e for e in ("ok", "invalid", "too_large") if f",{e}," in row)
        data = (data_folder / "badimages" / name).read_bytes()
        if expected == "ok":
            assert read_image(data).dtype == np.uint8, name
        else:
            with pytest.raises(errors[expected]):
                read_image(data)


def test_pixel_limit_is_checked_before_decoding() -> None:
    data = encode(np.zeros((100, 101, 3), np.uint8))
    assert read_image(data, DecodeLimits(10_100)).shape == (100, 101, 3)
    with pytest.raises(ImageTooLargeError, match=r"100x101 is 10,100 pixels; the limit is 10,099"):
        read_image(data, DecodeLimits(10_099))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no bytes"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"<svg xmlns='x'/>", "an SVG drawing"),
        (b"II*\0aaaaaaaa", "a TIFF file"),
        (b"\x1f\x8b\x08aaaa", "a gzip file"),
        (b"just words", "text"),
        (bytes(range(200, 230)), "30 bytes that begin with"),
    ],
)
def test_bytes_that_are_not_an_image_are_described(data: bytes, words: str) -> None:
    with pytest.raises(InvalidImageError, match=words):
        read_image(data)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    with pytest.raises(InvalidImageError):
        read_image(data)


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_a_damaged_jpeg_decodes_or_is_refused(place: int, value: int) -> None:
    data = bytearray(encode(quadrants(), "JPEG"))
    data[place % len(data)] = value
    with contextlib.suppress(InvalidImageError):
        assert read_image(bytes(data)).ndim == 3


def test_a_damaged_header_is_refused_without_addresses_in_memory() -> None:
    damaged = bytearray(encode(quadrants(), "PNG"))
    damaged[29] ^= 1  # the checksum of the header
    with pytest.raises(InvalidImageError) as refused:
        read_image(bytes(damaged))
    assert "0x" not in str(refused.value)


def test_a_png_with_a_text_bomb_is_refused_with_bounded_memory() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    good = encode(np.zeros((8, 8, 3), np.uint8))
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9))
    with pytest.raises(InvalidImageError):
        read_image(good[:33] + bomb + good[33:])


def test_raw_pixels_must_fit_their_size() -> None:
    assert raw_image(bytes(24), 2, 4, max_pixels=8).shape == (2, 4, 3)
    with pytest.raises(InvalidImageError, match=r"23 bytes; expected 2x4x3 = 24"):
        raw_image(bytes(23), 2, 4, max_pixels=8)
    with pytest.raises(InvalidImageError, match="at least 1x1"):
        raw_image(b"", 0, 4, max_pixels=8)
    with pytest.raises(ImageTooLargeError):
        raw_image(bytes(24), 2, 4, max_pixels=7)


@pytest.mark.parametrize(
    "edges",
    [(0, 0, 0, 1), (0.5, 0, 0.4, 1), (-0.1, 0, 1, 1), (0, 0, 1.1, 1), (float("nan"), 0, 1, 1)],
)
def test_impossible_regions_are_refused(edges: tuple[float, float, float, float]) -> None:
    with pytest.raises(InvalidRequestError, match="region_of_interest"):
        Region(*edges)


def test_region_is_cut_after_the_orientation_and_before_the_resize() -> None:
    upright = quadrants(64, 64)
    # Orientation 6: what is stored must be turned by 90 degrees clockwise to stand upright.
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(np.rot90(upright), exif=exif.tobytes())
    pixels = read_image(data)
    assert np.array_equal(pixels, upright)
    seen = fit(pixels, ResizeRule(8, 8), Region(0, 0, 0.5, 0.5)).pixels
    assert (seen == (255, 0, 0)).all()


def test_stretch_uses_the_whole_image() -> None:
    fitted = fit(quadrants(), ResizeRule(32, 32))
    assert fitted.source_box == (0, 0, 96, 64)
    assert fitted.pixels[2, 2].tolist() == [255, 0, 0]
    assert fitted.pixels[-3, -3].tolist() == [255, 255, 0]


def test_crop_takes_the_centre_with_the_shape_of_the_input() -> None:
    fitted = fit(quadrants(), ResizeRule(32, 32, ResizeMode.CROP))
    assert fitted.source_box == (16, 0, 80, 64)


def test_pad_keeps_everything_and_fills_with_grey() -> None:
    fitted = fit(quadrants(), ResizeRule(32, 32, ResizeMode.PAD))
    assert fitted.source_box == (0, 0, 96, 64)
    left, top, right, bottom = fitted.target_box
    assert (left, right) == (0, 32)
    assert bottom - top == 21
    assert (fitted.pixels[:top] == 128).all()
    assert (fitted.pixels[bottom:] == 128).all()


@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize(("height", "width"), [(3, 20_000), (600, 1), (1, 1), (64, 96), (33, 500)])
def test_segments_map_to_the_source_and_back(mode: ResizeMode, height: int, width: int) -> None:
    rule = ResizeRule(32, 32, mode)
    fitted = fit(np.zeros((height, width, 3), np.uint8), rule)
    assert fitted.pixels.shape == (32, 32, 3)
    segments = np.arange(16).reshape(4, 4).repeat(8, 0).repeat(8, 1)
    there = fitted.to_source(segments)
    assert there.shape == (height, width)
    left, top, right, bottom = fitted.source_box
    seen = there[top:bottom, left:right]
    assert (seen != UNSEEN).all()
    assert (there == UNSEEN).sum() == height * width - seen.size
    back = fitted.from_source(np.where(there == UNSEEN, 0, there))
    assert back.shape == (32, 32)
    assert set(np.unique(back)) <= set(np.unique(segments))
    # Where the source has at least the input's resolution nothing is lost on the way.
    t_left, t_top, t_right, t_bottom = fitted.target_box
    if bottom - top >= t_bottom - t_top and right - left >= t_right - t_left:
        inner = np.s_[t_top:t_bottom, t_left:t_right]
        assert np.array_equal(back[inner], segments[inner])


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(list(ResizeMode)),
    st.tuples(*[st.floats(0, 1)] * 4),
)
@settings(max_examples=150, deadline=None)
def test_any_image_and_region_can_be_fitted(
    height: int, width: int, mode: ResizeMode, edges: tuple[float, float, float, float]
) -> None:
    left, right = sorted(edges[:2])
    top, bottom = sorted(edges[2:])
    if left == right or top == bottom:
        return
    region = Region(left, top, right, bottom)
    fitted = fit(np.zeros((height, width, 3), np.uint8), ResizeRule(24, 17, mode), region)
    assert fitted.pixels.shape == (24, 17, 3)
    a, b, c, d = fitted.source_box
    assert 0 <= a < c <= width
    assert 0 <= b < d <= height
    assert fitted.to_source(np.zeros((24, 17), int)).shape == (height, width)


@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize("region", [None, Region(0.2, 0.1, 0.9, 0.7)])
@pytest.mark.parametrize(
    ("kind", "save"),
    [
        ("RGB", {"format": "JPEG"}),
        ("RGB", {"format": "JPEG", "orientation": 6}),
        ("RGB", {"format": "PNG"}),
        ("RGB", {"format": "PNG", "transparency": (0, 0, 0)}),
        ("L", {"format": "JPEG"}),
        ("CMYK", {"format": "JPEG"}),
        ("P", {"format": "GIF"}),
        ("RGBA", {"format": "WEBP"}),
    ],
)
@pytest.mark.parametrize("size", [(61, 43), (1700, 1100)])
def test_read_fitted_gives_the_bytes_of_read_and_fit(
    kind: str,
    save: dict[str, Any],
    size: tuple[int, int],
    region: Region | None,
    mode: ResizeMode,
) -> None:
    width, height = size
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    image = image.resize(size).convert(kind)
    options = dict(save)
    if orientation := options.pop("orientation", None):
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    image.save(file, **options)
    rule = ResizeRule(48, 32, mode)
    expected = fit(read_image(file.getvalue()), rule, region).pixels
    assert read_fitted(file.getvalue(), rule, region).tobytes() == expected.tobytes()


def _saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize("size", [(1, 1), (17, 9), (48, 32), (225, 223)])
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 30, "subsampling": "4:4:4"},
        {"quality": 95, "subsampling": "4:2:2"},
        {"quality": 75, "subsampling": "4:2:0", "progressive": True},
        {"quality": 100, "subsampling": "4:2:0", "optimize": True, "restart_marker_rows": 1},
        {"quality": 90, "keep_rgb": True},
        {"quality": 90, "grey": True},
        {"quality": 90, "cmyk": True},
        {"quality": 90, "orientation": 6},
        {"quality": 90, "xmp": b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'},
        {"quality": 90, "comment": "an image"},
    ],
    ids=str,
)
def test_a_jpeg_of_the_networks_size_has_the_pixels_of_the_long_way(
    size: tuple[int, int], mode: ResizeMode, options: dict[str, Any]
) -> None:
    width, height = size
    small = np.random.default_rng(4).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    options = dict(options)
    if options.pop("grey", False):
        image = image.convert("L")
    if options.pop("cmyk", False):
        image = image.convert("CMYK")
    if orientation := options.pop("orientation", None):
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.Orientation] = orientation
    data = _saved(image, **options)
    rule = ResizeRule(height, width, mode)
    assert read_fitted(data, rule).tobytes() == fit(read_image(data), rule).pixels.tobytes()
    assert read_image(data).tobytes() == _by_pillow(data).tobytes()


def _by_pillow(data: bytes) -> np.ndarray:
    return decode_with(inspect(data), Pixels.array)


def _pixels_or_error(pixels: Callable[[bytes], np.ndarray], data: bytes) -> bytes | str:
    try:
        return pixels(data).tobytes()
    except InvalidImageError as error:
        return str(error)


def test_a_damaged_jpeg_is_read_alike_with_and_without_resizing() -> None:
    rng = np.random.default_rng(5)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    rule = ResizeRule(48, 64)
    whole = _saved(small.resize((64, 48), Image.Resampling.BICUBIC), quality=80)
    num_read, num_refused = 0, 0
    for _ in range(600):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        del damaged[rng.integers(len(whole) // 2, 3 * len(whole)) :]
        found = _pixels_or_error(lambda data: fit(read_image(data), rule).pixels, bytes(damaged))
        assert _pixels_or_error(read_image, bytes(damaged)) == _pixels_or_error(
            _by_pillow, bytes(damaged)
        )
        assert _pixels_or_error(lambda data: read_fitted(data, rule), bytes(damaged)) == found
        num_read += isinstance(found, bytes)
        num_refused += isinstance(found, str)
    assert num_read > 50
    assert num_refused > 50


def test_an_orientation_behind_a_repeated_marker_byte_is_not_missed() -> None:
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 3
    whole = _saved(upright, exif=turned)
    at = whole.index(b"\xff\xe1")
    end = at + 2 + int.from_bytes(whole[at + 2 : at + 4])
    # With 0xFF taken for the marker, its length leads into a comment, to what looks like pixels.
    led = at + 2 + int.from_bytes(b"\xe1" + whole[at + 2 : at + 3])
    comment = bytearray(65_533)
    comment[led - end - 5 : led - end - 3] = b"\xff\xda"
    data = whole[:at] + b"\xff" + whole[at:end] + b"\xff\xfe\xff\xff" + comment + whole[end:]
    assert data[led : led + 2] == b"\xff\xda"
    rule = ResizeRule(48, 64)
    assert read_fitted(data, rule).tobytes() == fit(read_image(data), rule).pixels.tobytes()
    assert read_image(data).tobytes() == _by_pillow(data).tobytes()


def test_without_simplejpeg_pillow_reads_all(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _saved(Image.new("RGB", (64, 48), "red"))
    rule = ResizeRule(48, 64)
    before = read_fitted(data, rule).tobytes()
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert read_fitted(data, rule).tobytes() == before


def test_a_jpeg_of_the_networks_size_may_have_too_many_pixels() -> None:
    data = _saved(Image.new("RGB", (64, 48)))
    with pytest.raises(ImageTooLargeError):
        read_fitted(data, ResizeRule(48, 64), limits=DecodeLimits(64 * 48 - 1))
