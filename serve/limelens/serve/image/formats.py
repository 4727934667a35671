"""Inspects JPEG, PNG, GIF, WebP and BMP files in bounded time, before they are decoded.

A few bytes can keep a decoder busy, which cannot be interrupted: scans without content, chunks
without end, rows padded one by one. Inspection refuses what costs far more than its bytes and
pixels; it takes a few milliseconds at most. Each walker finds the size and the orientation,
estimates the cost, and leaves out the parts that no pixel depends on (comments, profiles, further
frames), so that no decoder reads them. It decodes no pixel.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from typing import Final, NoReturn

from limelens.serve.errors import ImageTooLargeError, InvalidImageError
from limelens.serve.image.limits import (
    DEFAULT_LIMITS,
    MAX_MEMORY,
    DecodeLimits,
    Source,
    allowed_s,
    check_size,
    too_slow,
)

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif"})
"""Suffixes of files in these formats, in lower case."""

_QUICK_S: Final = 0.04
_QUICK_MEMORY: Final = 64 * 1024 * 1024
_QUICK_LOSSLESS: Final = 300 * 300

_MAX_PARTS: Final = 1000
"""Segments of a JPEG before its first scan, chunks of a PNG or WebP other than pixels."""
_MAX_FILL: Final = 64
_MAX_SCANS: Final = 100
_MAX_DATA_CHUNKS: Final = 8192
_MAX_FRAMES: Final = 10_000
_MAX_GIF_BLOCKS: Final = 10_000
_MAX_INFLATED: Final = 4 * 1024 * 1024
_MAX_IFD: Final = 1000

_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_ORIENTATION: Final = 0x0112
_XMP_ORIENTATION: Final = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_MAX_XMP: Final = 1024 * 1024


def _refuse(reason: str) -> NoReturn:
    raise InvalidImageError(reason)


def _check_found(height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        _refuse(f"damaged: its size is {height}x{width}; expected at least 1x1")
    check_size(height, width, max_pixels)


class _Kept:
    """Ranges of a file that are kept; neighbours are joined."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._ranges: list[tuple[int, int]] = []

    def keep(self, start: int, end: int) -> None:
        if self._ranges and self._ranges[-1][1] == start:
            self._ranges[-1] = (self._ranges[-1][0], end)
        elif start < end:
            self._ranges.append((start, end))

    def data(self) -> bytes:
        if self._ranges == [(0, len(self._data))]:
            return self._data
        view = memoryview(self._data)
        return b"".join([view[start:end] for start, end in self._ranges])


def _is_quick(seconds: float, memory: int) -> bool:
    return seconds <= _QUICK_S and memory <= _QUICK_MEMORY


# --- JPEG ---

_START_OF_SCAN: Final = 0xDA
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
# Tables, the frame, restart intervals, and the two APPn that define colours.
_JPEG_KEPT: Final = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}
_PROGRESSIVE: Final = frozenset({0xC2, 0xCA})
_ARITHMETIC: Final = frozenset({0xC9, 0xCA})
_READ_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_EXIF: Final = b"Exif\0\0"
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"


def _jpeg(data: bytes, max_pixels: int) -> Source:
    kept = _Kept(data)
    kept.keep(0, 2)
    at, count, fill = 2, 0, 0
    frame: tuple[int, int] | None = None
    exif = xmp = b""
    while True:
        if data[at] != 0xFF:
            _refuse("damaged: a marker is missing")
        marker = data[at + 1]
        if marker == 0xFF:  # may be repeated before a marker
            at, fill = at + 1, fill + 1
            if fill > _MAX_FILL:
                _refuse("damaged: too many bytes between its segments")
            continue
        if marker == _START_OF_SCAN:
            break
        count += 1
        if count > _MAX_PARTS:
            _refuse(f"more than {_MAX_PARTS} segments before its pixels")
        if marker in _STANDALONE:
            at += 2
            continue
        length = (data[at + 2] << 8) + data[at + 3]
        end = at + 2 + length
        if marker == 0xD9 or length < 2 or end > len(data):
            _refuse("damaged: it ends before its pixels")
        if marker in _FRAMES:
            if frame is not None:
                _refuse("damaged: it has more than one frame")
            frame = (marker, at + 4)
        if marker in _JPEG_KEPT:
            kept.keep(at, end)
        elif marker == 0xE1:
            if not exif and data.startswith(_EXIF, at + 4):
                exif = data[at + 10 : end]
            elif not xmp and data.startswith(_XMP, at + 4):
                xmp = data[at + 4 : end]
        at = end
    kept.keep(at, len(data))
    if frame is None:
        _refuse("damaged: no frame before its pixels")
    kind, place = frame
    height, width, num_components = struct.unpack_from(">HHB", data, place + 1)
    if kind not in _READ_FRAMES or num_components not in (1, 3, 4):
        _refuse("a JPEG of a kind that is not supported (lossless, hierarchical or of odd colours)")
    _check_found(height, width, max_pixels)
    factors = [data[place + 7 + 3 * i] for i in range(num_components)]
    across, down = max(one >> 4 for one in factors), max(one & 15 for one in factors)
    if not all(1 <= one >> 4 <= 4 and 1 <= one & 15 <= 4 for one in factors):
        _refuse("damaged: impossible sampling factors")
    # Of all components, padded to whole units.
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    blocks = units * sum((one >> 4) * (one & 15) for one in factors)
    pixels = height * width
    is_plain = kind not in _PROGRESSIVE and data[at + 4] == num_components
    seconds = 6e-9 * pixels + 8e-9 * (len(data) - at)
    memory = (1 if num_components == 1 else 4) * pixels
    if not is_plain:
        num_scans = data.count(b"\xff\xda", at)
        if num_scans > _MAX_SCANS:
            _refuse(f"{num_scans} scans; expected at most {_MAX_SCANS}")
        seconds += 12e-9 * num_scans * blocks
        memory += 128 * blocks
    if kind in _ARITHMETIC:
        seconds += 64 * blocks * 10e-9
        is_plain = False
    orientation = _orientation(exif) or _xmp_orientation(xmp) or 1
    quick = _is_quick(1.5 * seconds, memory)
    return Source("JPEG", height, width, kept.data(), orientation, seconds, memory, is_plain, quick)


# --- PNG ---

_PNG_KEPT: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_RAW_PROFILE: Final = b"Raw profile type exif"
_PNG_XMP: Final = b"XML:com.adobe.xmp"


def _png(data: bytes, max_pixels: int) -> Source:
    kept = _Kept(data)
    kept.keep(0, 8)
    if data[12:16] != b"IHDR":
        _refuse("damaged: its header is not first")
    width, height, depth, colour, _, _, _ = struct.unpack_from(">IIBBBBB", data, 16)
    _check_found(height, width, max_pixels)
    channels = _CHANNELS.get(colour)
    if channels is None or depth not in (1, 2, 4, 8, 16):
        _refuse("damaged: an impossible depth or kind of colour")
    at, num_data, num_others, left = 8, 0, 0, _MAX_INFLATED
    exif = xmp = b""
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind == b"IDAT":
            num_data += 1
            if num_data > _MAX_DATA_CHUNKS:
                _refuse(f"its pixels are in more than {_MAX_DATA_CHUNKS:,} chunks")
        else:
            num_others += 1
            if num_others > _MAX_PARTS:
                _refuse(f"more than {_MAX_PARTS:,} chunks beside its pixels")
        if kind in _PNG_KEPT:
            kept.keep(at, min(end, len(data)))
        elif kind == b"eXIf":
            exif = exif or data[at + 8 : end - 4]
        elif kind in _PACKED:
            text = _unpacked(kind, data[at + 8 : end - 4], left)
            left -= len(text)
            if kind == b"iTXt" and data.startswith(_PNG_XMP, at + 8):
                xmp = xmp or text
            elif kind == b"zTXt" and data.startswith(_RAW_PROFILE, at + 8):
                exif = exif or _from_hex(text)
        elif kind == b"tEXt" and data.startswith(_RAW_PROFILE, at + 8):
            exif = exif or _from_hex(data[at + 8 + len(_RAW_PROFILE) + 1 : end - 4])
        at = end
        if kind == b"IEND":
            break
    if not num_data:
        _refuse("damaged: no pixels in it")
    pixels = height * width
    raw = height * (1 + (width * channels * depth + 7) // 8)
    each = 1 if channels == 1 and depth <= 8 else 2 if channels == 1 else 4
    seconds = 2.5e-9 * raw + 10e-9 * len(data) + 3e-6 * num_data
    orientation = _orientation(exif.removeprefix(_EXIF)) or _xmp_orientation(xmp) or 1
    quick = _is_quick(6e-9 * raw + 18e-9 * len(data) + 5e-6 * num_data, each * pixels)
    return Source(
        "PNG", height, width, kept.data(), orientation, seconds, each * pixels, False, quick
    )


_PACKED: Final = frozenset({b"zTXt", b"iTXt", b"iCCP"})


def _unpacked(kind: bytes, body: bytes, most: int) -> bytes:
    """The text or profile of a chunk, unpacked to `most` bytes; empty if it is broken."""
    _, _, rest = body.partition(b"\0")
    if kind == b"iTXt":
        is_packed = rest[:1] == b"\1"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        if not is_packed:
            return rest[:_MAX_XMP] if body.startswith(_PNG_XMP) else b""
    else:
        rest = rest[1:]
    if most <= 0:
        _refuse(f"its texts and profiles unpack to more than {_MAX_INFLATED:,} bytes")
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(rest, most)
    except zlib.error:
        return b""
    if unpacking.unconsumed_tail and not unpacking.eof:
        _refuse(f"its texts and profiles unpack to more than {_MAX_INFLATED:,} bytes")
    return text


def _from_hex(text: bytes) -> bytes:
    """EXIF as ImageMagick writes it: three lines, then hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text[:_MAX_XMP].split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


# --- GIF ---


def _gif(data: bytes, max_pixels: int) -> Source:
    kept = _Kept(data)
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << ((flags & 7) + 1) if flags & 128 else 0)
    kept.keep(0, at)
    num_blocks = 0
    while data[at] != 0x2C:
        if data[at] == 0x3B:
            _refuse("damaged: no image in it")
        start = at
        is_extension = data[at] == 0x21
        is_control = is_extension and data[at + 1] == 0xF9
        at += 2 if is_extension else 1
        num_blocks += 1
        while is_extension:
            length = data[at]
            at += 1 + length
            num_blocks += 1
            if num_blocks > _MAX_GIF_BLOCKS:
                break
            if not length:
                break
        if num_blocks > _MAX_GIF_BLOCKS:
            _refuse(f"more than {_MAX_GIF_BLOCKS:,} blocks before its pixels")
        if is_control:
            kept.keep(start, at)
    left, top, across, down = struct.unpack_from("<HHHH", data, at + 1)
    width, height = max(width, left + across), max(height, top + down)
    _check_found(height, width, max_pixels)
    kept.keep(at, len(data))
    pixels = height * width
    seconds = 2e-9 * pixels + 8e-9 * (len(data) - at)
    quick = _is_quick(3 * seconds, 2 * pixels)
    return Source("GIF", height, width, kept.data(), 1, seconds, 2 * pixels, False, quick)


# --- WebP ---

_VP8X: Final = b"VP8X"
_WEBP_KEPT: Final = frozenset({b"VP8X", b"ANIM", b"ALPH"})
_PER_WEBP_PIXEL: Final = 20
"""Bytes: two canvases of libwebp, its output, Pillow's image and a copy, of 4 bytes each."""


def _webp(data: bytes, max_pixels: int) -> Source:
    parts: list[bytes] = []
    at, count = 12, 0
    size: tuple[int, int] | None = None
    is_extended = has_image = is_lossless = False
    exif = xmp = b""
    while at + 8 <= len(data):
        kind = data[at : at + 4]
        (length,) = struct.unpack_from("<I", data, at + 4)
        end = at + 8 + length + (length & 1)
        body = at + 8
        count += 1
        if count > _MAX_FRAMES or (count > _MAX_PARTS and kind != b"ANMF"):
            _refuse(f"more than {_MAX_PARTS:,} chunks, or {_MAX_FRAMES:,} frames")
        if kind == _VP8X and not parts:
            is_extended = True
            size = _u24(data, body + 7) + 1, _u24(data, body + 4) + 1
            # Clears the flags of the chunks that are left out.
            parts.append(data[at:body] + bytes([data[body] & 0x12]) + data[body + 1 : end])
        elif kind == b"EXIF":
            exif = exif or data[body:end]
        elif kind == b"XMP ":
            xmp = xmp or data[body : min(end, body + _MAX_XMP)]
        elif has_image:
            pass
        elif kind in (b"VP8 ", b"VP8L", b"ANMF"):
            has_image = True
            parts.append(data[at:end])
            first = data[body + 16 : body + 20] if kind == b"ANMF" else kind
            # A plane of alpha is lossless too, and comes before the image.
            is_lossless = first != b"VP8 " or any(part[:4] == b"ALPH" for part in parts)
            if size is None:
                size = _webp_size(data, kind, body)
        elif kind in _WEBP_KEPT:
            parts.append(data[at:end])
        at = end
        if has_image and not is_extended:
            break
    if size is None or not has_image:
        _refuse("damaged: no image in it")
    height, width = size
    _check_found(height, width, max_pixels)
    whole = b"".join(parts)
    pixels = height * width
    memory = _PER_WEBP_PIXEL * pixels
    seconds = 8e-9 * pixels + 8e-9 * len(whole)
    quick = _is_quick(25e-9 * pixels + 15e-9 * len(whole), memory)
    quick = quick and (not is_lossless or pixels <= _QUICK_LOSSLESS)
    orientation = _orientation(exif.removeprefix(_EXIF)) or _xmp_orientation(xmp) or 1
    made = b"RIFF" + struct.pack("<I", len(whole) + 4) + b"WEBP" + whole
    return Source("WEBP", height, width, made, orientation, seconds, memory, False, quick)


def _webp_size(data: bytes, kind: bytes, body: int) -> tuple[int, int]:
    """Height and width in the first bytes of an image."""
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, body + 1)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, body + 6)
    return height & 0x3FFF, width & 0x3FFF


def _u24(data: bytes, at: int) -> int:
    return data[at] | data[at + 1] << 8 | data[at + 2] << 16


# --- BMP ---

_RUN_LENGTH: Final = (1, 2)


def _bmp(data: bytes, max_pixels: int) -> Source:
    (start, header) = struct.unpack_from("<II", data, 10)
    compression = 0
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        height = abs(height)
    _check_found(height, width, max_pixels)
    pixels = height * width
    each = 1 if bits <= 8 else 4
    if compression in _RUN_LENGTH:
        # Pillow decodes these in Python, run by run.
        seconds = 100e-9 * pixels + 200e-9 * len(data)
        return Source(
            "BMP", height, width, data, 1, seconds, 4 * pixels, False, _is_quick(seconds, 0)
        )
    needed = start + height * ((width * bits + 31) // 32 * 4)
    # The padding of the last row may be left out.
    if len(data) < needed - 3:
        _refuse(f"damaged: {len(data):,} bytes; expected {needed:,} for {height}x{width}")
    seconds = 2e-9 * pixels
    quick = _is_quick(2 * seconds, each * pixels)
    return Source("BMP", height, width, data, 1, seconds, each * pixels, False, quick)


def _orientation(exif: bytes) -> int:
    """The orientation in the first directory of an EXIF block; 0 if there is no valid one."""
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for i in range(min(count, _MAX_IFD)):
            place = at + 2 + 12 * i
            tag, kind = struct.unpack_from(f"{order}HH", exif, place)
            if tag == _ORIENTATION:
                layout = f"{order}I" if kind == 4 else f"{order}H"
                (found,) = struct.unpack_from(layout, exif, place + 8)
                return int(found) if 1 <= found <= 8 else 0
    # A broken EXIF block is no fault of the pixels.
    except (KeyError, struct.error):
        return 0
    return 0


def _xmp_orientation(xmp: bytes) -> int:
    found = _XMP_ORIENTATION.search(xmp[:_MAX_XMP]) if xmp else None
    number = int(found[1]) if found else 0
    return number if 1 <= number <= 8 else 0


_READERS: Final[tuple[tuple[Callable[[bytes], bool], Callable[[bytes, int], Source]], ...]] = (
    (lambda data: data.startswith(b"\xff\xd8\xff"), _jpeg),
    (lambda data: data.startswith(_PNG_START), _png),
    (lambda data: data.startswith((b"GIF87a", b"GIF89a")), _gif),
    (lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _webp),
    (lambda data: data.startswith(b"BM"), _bmp),
)
"""Tells a format by its first bytes, and walks a file within a limit of pixels."""


def inspect(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> Source:
    """Inspects an image's structure; raises as `read_image`."""
    if not data:
        raise InvalidImageError("no bytes; expected an encoded image")
    read = next((read for starts, read in _READERS if starts(data)), None)
    if read is None:
        raise InvalidImageError(
            f"not a supported image: {_describe(data)}; expected {', '.join(FORMATS)}"
        )
    try:
        source = read(data, limits.max_pixels)
    except (IndexError, struct.error):
        raise InvalidImageError("damaged: it ends within its header") from None
    if source.memory > MAX_MEMORY:
        raise ImageTooLargeError(
            f"{source.height}x{source.width} of this kind of {source.format} takes "
            f"{source.memory / 2**20:,.0f} MiB to decode; the limit is {MAX_MEMORY / 2**20:,.0f}: "
            "send it smaller, or as a baseline JPEG"
        )
    if source.seconds > allowed_s(source, len(data), limits.max_decode_s):
        raise too_slow(limits.max_decode_s)
    return source


def _describe(data: bytes) -> str:
    """A guess at what bytes are that are not an image."""
    start = data[:512].lstrip()
    lower = start.lower()
    if lower.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if lower.startswith(b"<svg") or b"<svg" in lower:
        return "an SVG drawing"
    if start.startswith(b"%PDF"):
        return "a PDF document"
    if start.startswith((b"II*\0", b"MM\0*")):
        return "a TIFF file"
    if start.startswith(b"\x1f\x8b"):
        return "a gzip file"
    if start.isascii() and bytes(start).decode("ascii").isprintable():
        return "text"
    return f"{len(data):,} bytes that begin with {data[:8].hex(' ')}"
