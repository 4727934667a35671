"""Small images made by code: every supported format, mode and orientation, and damaged files.

Fuzzing starts from them. This module knows Pillow and the layout of PNG files.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Final

import numpy as np
from PIL import Image

WIDTH: Final = 24
HEIGHT: Final = 16
_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_ORIENTATION: Final = 0x0112
_TRANSPARENT: Final = 77


def good_images() -> dict[str, bytes]:
    """Files that must be readable, named by their special feature."""
    return {**_modes(), **_formats(), **_orientations(), **_odd_chunks()}


def bad_images() -> dict[str, bytes]:
    """Files that are cut short or not an image."""
    found: dict[str, bytes] = {}
    whole = _formats()
    for name in ("plain.jpg", "plain.png", "plain.webp", "plain.bmp", "plain.gif"):
        data = whole[name]
        for part in (1, 2, 3):
            found[f"{part}_quarters_{name}"] = data[: len(data) * part // 4]
    found["huge_header.png"] = png_file(struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"")
    found["bomb.png"] = png_file(
        struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0), zlib.compress(bytes(100_000), 9)
    )
    found["text.jpg"] = b"no image at all"
    found["page.jpg"] = b"<!DOCTYPE html><html><body>404</body></html>"
    found["tiff.jpg"] = _saved(_rgb(), "TIFF")
    return found


def png_file(header: bytes, pixels: bytes) -> bytes:
    """A PNG of the given header and compressed pixels, valid or not."""
    chunks = (b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")
    return _PNG_START + b"".join(_chunk(kind, body) for kind, body in chunks)


def with_checksums(data: bytes) -> bytes:
    """Repairs the checksum of each chunk of a PNG; returns other bytes unchanged.

    Otherwise checksums would catch almost every change to a PNG, and later code would never be
    exercised.
    """
    if not data.startswith(_PNG_START):
        return data
    parts = [_PNG_START]
    place = len(_PNG_START)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        parts.append(_chunk(data[place + 4 : place + 8], data[place + 8 : end]))
        place = end + 4
    return b"".join([*parts, data[place:]])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _rgb() -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _modes() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    colours = _rgb()
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        found[f"mode_{mode}.png"] = _saved(colours.convert(mode), "PNG")
    for mode in ("L", "P", "RGB"):
        transparent: Any = (1, 2, 3) if mode == "RGB" else _TRANSPARENT
        found[f"transparent_{mode}.png"] = _saved(
            colours.convert(mode), "PNG", transparency=transparent
        )
    deep = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 170
    found["mode_16.png"] = _saved(Image.fromarray(deep), "PNG")
    for mode in ("L", "CMYK", "RGB"):
        found[f"mode_{mode}.jpg"] = _saved(colours.convert(mode), "JPEG")
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        found[f"mode_{mode}.bmp"] = _saved(colours.convert(mode), "BMP")
    return found


def _formats() -> dict[str, bytes]:
    colours = _rgb()
    others = [colours.rotate(90), colours.rotate(180)]
    return {
        "plain.png": _saved(colours, "PNG"),
        "plain.jpg": _saved(colours, "JPEG"),
        "plain.bmp": _saved(colours, "BMP"),
        "plain.gif": _saved(colours, "GIF"),
        "plain.webp": _saved(colours, "WEBP"),
        "progressive.jpg": _saved(colours, "JPEG", progressive=True),
        "subsampled.jpg": _saved(colours, "JPEG", subsampling=2, restart_marker_blocks=1),
        "lossless.webp": _saved(colours, "WEBP", lossless=True),
        "alpha.webp": _saved(colours.convert("RGBA"), "WEBP"),
        "animated.gif": _saved(colours, "GIF", save_all=True, append_images=others, duration=9),
        "animated.png": _saved(colours, "PNG", save_all=True, append_images=others, duration=9),
        "animated.webp": _saved(colours, "WEBP", save_all=True, append_images=others, duration=9),
        "interlaced.gif": _saved(colours.convert("P"), "GIF", interlace=1),
        "one_pixel.png": _saved(colours.crop((0, 0, 1, 1)), "PNG"),
        "strip.png": _saved(colours.resize((400, 1)), "PNG"),
    }


def _orientations() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        found[f"orientation_{orientation}.jpg"] = _saved(_rgb(), "JPEG", exif=exif.tobytes())
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    found["orientation.png"] = _saved(_rgb(), "PNG", exif=exif)
    found["orientation.webp"] = _saved(_rgb(), "WEBP", exif=exif)
    found["broken_exif.jpg"] = _saved(_rgb(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    return found


def _odd_chunks() -> dict[str, bytes]:
    plain = _saved(_rgb(), "PNG")
    place = plain.index(b"IDAT") - 4
    chunks = {
        "text": _chunk(b"tEXt", b"Comment\0words"),
        "packed_text": _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1000))),
        "long_text": _chunk(b"iTXt", b"Comment\0\1\0en\0\0" + zlib.compress(b"words")),
        "gamma": _chunk(b"gAMA", struct.pack(">I", 45455)),
        "profile": _chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(200))),
    }
    return {f"{name}.png": plain[:place] + chunk + plain[place:] for name, chunk in chunks.items()}
