"""Small files that are costly to decode: every trick of every supported format.

The search for costly images starts from them. This module knows the layout of the formats.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from PIL import Image

Make = Callable[[random.Random], bytes]
_SIDES: Final = (1, 2, 7, 64, 224, 300, 720, 1280, 2000, 4000, 7000, 16_383, 65_535)
_MOST_PIXELS: Final = 12_000_000
"""Largest image made by encoding: a larger one would take the fuzzer's time, not the reader's."""


def size(rng: random.Random, most: int = 60_000_000) -> tuple[int, int]:
    """Width and height, often odd in shape."""
    while True:
        width, height = rng.choice(_SIDES), rng.choice(_SIDES)
        if width * height <= most:
            return width, height


def segment(marker: int, body: bytes) -> bytes:
    """One segment of a JPEG."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _saved(rng: random.Random, kind: str, mode: str = "RGB", **options: Any) -> bytes:
    width, height = size(rng, _MOST_PIXELS)
    width, height = min(width, 16_000), min(height, 16_000)
    image = Image.new(mode, (width, height), rng.randrange(200))
    if rng.random() < 0.5:  # not a plain colour
        noise = Image.frombytes("L", (64, 64), rng.randbytes(4096)).convert(mode)
        image.paste(noise.resize((min(width, 640), min(height, 640))))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def empty_scans(rng: random.Random) -> bytes:
    """A grey progressive JPEG whose scans are empty."""
    width, height = size(rng)
    num_scans = rng.choice((1, 5, 20, 60, 99, 101, 1000))
    blocks = -(-width // 8) * -(-height // 8)
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + b"\x7f\xff\x00" * (blocks // 32767 + 1)
    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + bytes([1] * 64))
        + segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\0")
        + segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\0")
        + segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")
        + segment(0xDA, b"\x01\x01\x00\x00\x00\x00")
        + bytes(blocks // 8 + 1)
        + scan * num_scans
        + b"\xff\xd9"
    )


def jpeg(rng: random.Random) -> bytes:
    """A JPEG as Pillow writes it, baseline or progressive, perhaps of another size or coding."""
    options: dict[str, Any] = {
        "quality": rng.choice((5, 75, 100)),
        "subsampling": rng.choice((0, 1, 2)),
        "progressive": rng.random() < 0.5,
    }
    if rng.random() < 0.3:
        options["restart_marker_blocks"] = rng.choice((1, 100))
    data = bytearray(_saved(rng, "JPEG", rng.choice(("L", "RGB", "CMYK")), **options))
    if rng.random() < 0.5:
        at = _frame(data)
        if at:
            if rng.random() < 0.7:
                width, height = size(rng)
                struct.pack_into(">HH", data, at + 5, height, width)
            if rng.random() < 0.3:  # arithmetic coding
                data[at + 1] = rng.choice((0xC9, 0xCA))
            if rng.random() < 0.3:  # other sampling factors
                data[at + 11] = rng.choice((0x11, 0x14, 0x41, 0x44, 0x31))
    return bytes(data)


def _frame(data: bytearray) -> int:
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        at = data.find(marker)
        if at > 0:
            return at
    return 0


def flooded_jpeg(rng: random.Random) -> bytes:
    """A JPEG behind many meaningless segments."""
    count = rng.choice((10, 900, 5000, 100_000))
    body = rng.choice(
        (b"", b"x", b"Exif\0\0" + exif(rng)[:60_000], b"http://ns.adobe.com/xap/1.0/\0")
    )
    if len(body) > 100:
        count = min(count, 100)
    flood = segment(rng.choice((0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xDB, 0xC4)), body) * count
    good = _saved(rng, "JPEG")
    return good[:2] + flood + good[2:]


def exif(rng: random.Random) -> bytes:
    """A directory of many entries that all name the same bytes, or itself."""
    count, length = rng.choice(((10, 100), (5000, 50_000), (65_535, 100_000)))
    entries = b"".join(
        struct.pack("<HHII", rng.choice((0x112, i % 65_536)), 7, length, 8) for i in range(count)
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + b"\x08\0\0\0" + bytes(length)


def png(rng: random.Random) -> bytes:
    """A PNG of any size, depth and filter, complete or cut short."""
    width, height = size(rng)
    depth, colour = rng.choice(
        ((1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (8, 4), (8, 6), (16, 6))
    )
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes([rng.randrange(5)]) + bytes((width * channels * depth + 7) // 8)
    num_rows = min(height, 60_000_000 // len(row) + 1)
    packing = zlib.compressobj(rng.choice((1, 9)))
    packed = b"".join([packing.compress(row) for _ in range(num_rows)]) + packing.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, rng.randrange(2))
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header)]
    if colour == 3:
        parts.append(chunk(b"PLTE", rng.randbytes(768)))
    if colour in (0, 2, 3) and rng.random() < 0.5:
        parts.append(chunk(b"tRNS", bytes(6 if colour == 2 else 2)))
    parts += _png_flood(rng)
    step = rng.choice((1, 7, 8192, len(packed)))
    step = max(step, len(packed) // 20_000, 1)
    parts += [chunk(b"IDAT", packed[i : i + step]) for i in range(0, len(packed), step)]
    return b"".join([*parts, *_png_flood(rng), chunk(b"IEND", b"")])


def _png_flood(rng: random.Random) -> list[bytes]:
    count = rng.choice((0, 0, 1, 5, 900, 100_000))
    bomb = zlib.compress(bytes(rng.choice((1000, 1_000_000, 80_000_000))), 9)
    kinds = (
        (b"abCd", b""),
        (b"tEXt", b"a\0b"),
        (b"zTXt", b"a\0\0" + bomb),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        (b"iCCP", b"a\0\0" + bomb),
        (b"eXIf", exif(rng)),
        (b"acTL", struct.pack(">II", 100_000, 0)),
        (b"fcTL", bytes(26)),
        (b"IDAT", b""),
    )
    kind, body = rng.choice(kinds)
    return [chunk(kind, body)] * min(count, 4_000_000 // (len(body) + 12))


def gif(rng: random.Random) -> bytes:
    """A GIF of many blocks, whose codes produce little or clear the table repeatedly."""
    width, height = size(rng)
    width, height = min(width, 65_535), min(height, 65_535)
    flood = rng.choice(
        (
            b"\x21\xfe\x01x\0",
            b"\x21\xf9\x04\0\0\0\0\0",
            b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0",
            b"\0",
        )
    )
    extension = flood * rng.choice((0, 1, 4000, 400_000))
    long_comment = b"\x21\xfe" + b"\x01x" * rng.choice((0, 9000, 1_000_000)) + b"\0"
    codes = rng.choice((b"\x24\x92\x49", b"\x00\x01", b"\x44\x01", bytes(3), b"\xff\xff\xff"))
    data = codes * rng.choice((1, 100_000, 1_000_000))
    length = rng.choice((1, 255))
    blocks = b"".join(
        [
            bytes([len(data[i : i + length])]) + data[i : i + length]
            for i in range(0, min(len(data), 600_000), length)
        ]
    )
    frame = struct.pack("<HHHHB", 0, 0, width, height, rng.choice((0, 64)))
    screen = struct.pack("<HHBBB", rng.choice((1, width)), height, 0x80, 0, 0) + bytes(6)
    return (
        b"GIF89a"
        + screen
        + extension
        + long_comment
        + b"\x2c"
        + frame
        + bytes([rng.choice((2, 8))])
        + blocks
        + b"\0\x3b"
    )


def webp(rng: random.Random) -> bytes:
    """A WebP, lossy, lossless or animated, perhaps with chunks around it."""
    options: dict[str, Any] = {
        "lossless": rng.random() < 0.5,
        "method": 0,
        "quality": rng.choice((0, 50)),
    }
    body = _saved(rng, "WEBP", rng.choice(("RGB", "RGBA")), **options)[12:]
    if rng.random() < 0.3:  # the same image as frames of an animation
        body = _animated(body, rng.choice((2, 5000)))
    flood = (rng.choice((b"XXXX", b"EXIF", b"ANMF")) + bytes(4)) * rng.choice((0, 0, 900, 200_000))
    whole = flood + body if rng.random() < 0.3 else body + flood
    return b"RIFF" + struct.pack("<I", len(whole) + 4) + b"WEBP" + whole


def _animated(still: bytes, num_frames: int) -> bytes:
    """The chunks of an animation whose frames are all one image."""
    image = Image.open(io.BytesIO(b"RIFF" + struct.pack("<I", len(still) + 4) + b"WEBP" + still))
    edges = struct.pack("<I", image.width - 1)[:3] + struct.pack("<I", image.height - 1)[:3]
    at = still.find(b"VP8L") if b"VP8L" in still[:64] else still.find(b"VP8 ")
    frame = bytes(6) + edges + b"\x64\0\0\0" + still[at:]
    num_frames = max(1, min(num_frames, 2_000_000 // len(frame)))
    whole = b"ANMF" + struct.pack("<I", len(frame)) + frame
    head = b"VP8X" + struct.pack("<I", 10) + b"\x12\0\0\0" + edges
    return head + b"ANIM" + struct.pack("<I", 6) + bytes(6) + whole * num_frames


def bmp(rng: random.Random) -> bytes:
    """A BMP of runs that skip, pad and produce nothing, or whose pixels are missing."""
    width, height = size(rng)
    compression = rng.choice((0, 1, 2))
    bits = {0: rng.choice((1, 8, 24, 32)), 1: 8, 2: 4}[compression]
    code = rng.choice(
        (
            b"\x01\0\0\0",
            b"\0\0",
            b"\0\x02\xff\xff",
            b"\0\x02\0\x01",
            b"\xff\0",
            b"\0\x03abc\0",
            b"\x01\0",
        )
    )
    data = code * rng.choice((1, 1000, 300_000))
    start = 54 + 1024
    header = struct.pack(
        "<IiiHHIIiiII",
        40,
        width,
        height * rng.choice((1, -1)),
        1,
        bits,
        compression,
        len(data),
        0,
        0,
        256,
        0,
    )
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(data), 0, 0, start)
        + header
        + bytes(1024)
        + data
        + b"\0\x01"
    )


def png_with_exif(rng: random.Random) -> bytes:
    """A small PNG with a large directory."""
    good = _saved(rng, "PNG")
    return good[:33] + chunk(b"eXIf", exif(rng)) + good[33:]


MAKERS: Final[Mapping[str, Make]] = {
    "empty scans": empty_scans,
    "jpeg": jpeg,
    "flooded jpeg": flooded_jpeg,
    "png": png,
    "png with exif": png_with_exif,
    "gif": gif,
    "webp": webp,
    "bmp": bmp,
}
