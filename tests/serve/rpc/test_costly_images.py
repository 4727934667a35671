"""Small files that are costly to decode: refused in time, or decoded in another process."""

from __future__ import annotations

import io
import os
import random
import signal
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from tests.waiting import until

from fuzz.costly_images import MAKERS, chunk, empty_scans, segment
from fuzz.decode_cost import cost_of
from limelens.serve import Client
from limelens.serve.errors import ImageTooLargeError, InvalidImageError
from limelens.serve.image import (
    DecodeLimits,
    Region,
    ResizeMode,
    ResizeRule,
    read_fitted,
    read_image,
)
from limelens.serve.image.decoder_client import decode_apart, start_decoder, upright
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.image.fitting import Pixels, resized
from limelens.serve.image.formats import inspect
from limelens.serve.image.limits import MAX_SIDE

RULE = ResizeRule(48, 32)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="images are decoded here then")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, seed: int = 1) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def run_length(width: int, height: int, data: bytes) -> bytes:
    start = 54 + 1024
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    head = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start)
    return head + header + bytes(1024) + data


def scans(count: int, side: int) -> bytes:
    """A grey progressive JPEG of many scans without content."""

    class Fixed(random.Random):
        def choice(self, of: Any) -> Any:
            return count if 60 in of else side

    return empty_scans(Fixed())


GOOD_PNG = saved(noise(64, 96), "PNG")
GOOD_JPEG = saved(noise(64, 96), "JPEG")
GOOD_GIF = saved(noise(64, 96), "GIF")
COSTLY = {
    "rows of a run-length BMP that are padded": run_length(
        65_000, 700, b"\x01\0\0\0" * 700 + b"\0\1"
    ),
    "a BMP whose pixels are not there": run_length(60_000, 800, b"")[:1078],
    "a JPEG of many scans": scans(1000, 2000),
    "a large JPEG of some scans": scans(99, 7000),
    "a PNG of many chunks": GOOD_PNG[:33] + chunk(b"abCd", b"") * 100_000 + GOOD_PNG[33:],
    "a PNG whose pixels are in crumbs": GOOD_PNG[:33] + chunk(b"IDAT", b"") * 9000 + GOOD_PNG[33:],
    "a PNG of a packed text": GOOD_PNG[:33]
    + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
    + GOOD_PNG[33:],
    "a PNG of a packed profile": GOOD_PNG[:33]
    + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
    + GOOD_PNG[33:],
    "a GIF of many comments": GOOD_GIF[:13] + b"\x21\xfe\x01x\0" * 100_000 + GOOD_GIF[13:],
    "a JPEG of many comments": GOOD_JPEG[:2] + segment(0xFE, b"x") * 100_000 + GOOD_JPEG[2:],
    "a JPEG behind much filling": GOOD_JPEG[:2] + b"\xff" * 1_000_000 + GOOD_JPEG[2:],
    "a strip": saved(Image.new("L", (1, MAX_SIDE + 1)), "PNG"),
    "a large progressive JPEG": saved(Image.new("RGB", (7000, 7000)), "JPEG", progressive=True),
    "a large WebP": saved(Image.new("RGB", (5000, 5000)), "WEBP", lossless=True),
}
HARMLESS = {
    "a directory whose entries all name the same bytes": GOOD_PNG[:33]
    + chunk(
        b"eXIf",
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", 9000)
        + struct.pack("<HHII", 1, 7, 200_000, 8) * 9000
        + bytes(200_004),
    )
    + GOOD_PNG[33:],
    "a JPEG with some comments and a long profile": GOOD_JPEG[:2]
    + segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)) * 20
    + GOOD_JPEG[2:],
}


@pytest.mark.parametrize("name", COSTLY)
def test_costly_images_are_refused_before_decoding(name: str) -> None:
    for read in (read_image, decode_apart):
        with pytest.raises(InvalidImageError):
            read(COSTLY[name])


@pytest.mark.parametrize("name", HARMLESS)
def test_parts_that_no_pixel_depends_on_are_left_out(name: str) -> None:
    assert read_image(HARMLESS[name]).shape == (64, 96, 3)
    assert len(inspect(HARMLESS[name]).data) < len(HARMLESS[name])


def test_an_ordinary_image_is_inspected_without_a_copy() -> None:
    for data in (GOOD_JPEG, GOOD_PNG):
        assert inspect(data).data is data


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are Linux's")
@pytest.mark.parametrize("name", MAKERS)
def test_no_kind_of_costly_image_takes_long_or_much_memory(name: str) -> None:
    for seed in range(3):
        cost = cost_of(MAKERS[name](random.Random(seed)))
        # Twice: others may have had the machine.
        assert not cost.broken or not cost_of(MAKERS[name](random.Random(seed))).broken


@needs_fork
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "L", {"progressive": True}),
        ("PNG", "RGBA", {}),
        ("WEBP", "RGB", {}),
    ],
)
def test_another_process_gives_the_same_pixels(
    kind: str, mode: str, options: dict[str, Any], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(noise(480, 640).convert(mode), kind, exif=exif.tobytes(), **options)
    whole = read_image(data)
    assert np.array_equal(decode_apart(data), whole)
    for region in (None, Region(0.1, 0.2, 0.7, 0.9)):
        for rule in (RULE, ResizeRule(48, 32, ResizeMode.PAD), ResizeRule(640, 480)):
            assert np.array_equal(
                decode_apart(data, rule=rule, region=region), read_fitted(data, rule, region)
            )


@needs_fork
def test_another_process_gives_the_reason_for_a_refusal() -> None:
    with pytest.raises(ImageTooLargeError, match="the limit is 100"):
        decode_apart(GOOD_PNG, DecodeLimits(100), RULE)
    with pytest.raises(InvalidImageError, match="not a supported image: text"):
        decode_apart(b"just words")
    half = saved(noise(640, 480), "JPEG")
    with pytest.raises(InvalidImageError, match="damaged: "):
        decode_apart(half[: len(half) // 2])


@needs_fork
def test_a_decoder_that_takes_too_long_is_ended_and_the_next_is_not() -> None:
    slow = saved(noise(3000, 4000), "PNG", compress_level=1)
    with pytest.raises(InvalidImageError, match="takes too long"):
        # Its bytes pay for the rest; so few are left that it cannot be done.
        decode_apart(slow, DecodeLimits(max_decode_s=-len(slow) * 30e-9 + 0.02), RULE)
    assert decode_apart(GOOD_PNG, rule=RULE).shape == (48, 32, 3)


@needs_fork
def test_a_decoder_process_that_ended_is_restarted() -> None:
    decode_apart(GOOD_PNG, rule=RULE)
    pid = start_decoder()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert decode_apart(GOOD_PNG, rule=RULE).shape == (48, 32, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_view_is_upright_as_by_pillow(orientation: int) -> None:
    stored = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turned = Pixels(stored, orientation).array()
    assert np.array_equal(upright(stored, orientation), turned)


@pytest.mark.parametrize("size", [(5, 4), (224, 224), (1, 300), (700, 3)])
@pytest.mark.parametrize("box", [(0, 0, 1400, 900), (13, 7, 1399, 888), (0, 0, 1400, 3)])
def test_resizing_by_strips_gives_what_pillow_gives(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    image = noise(900, 1400)
    expected = image.crop(box).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    for stored in (image, np.asarray(image)):
        assert np.array_equal(np.asarray(resized(Pixels(stored), box, size)), np.asarray(expected))


def test_quick_images_are_those_of_cameras_and_networks() -> None:
    for image in (noise(224, 224), noise(720, 1280), noise(1080, 1920)):
        assert EncodedImage("image", saved(image, "JPEG")).is_quick
    assert EncodedImage("image", saved(noise(224, 224), "PNG")).is_quick
    assert not EncodedImage("image", saved(noise(3000, 4000), "JPEG")).is_quick
    assert not EncodedImage("image", bytes(3_000_000)).is_quick


@pytest.fixture
def large_photo() -> bytes:
    return saved(noise(3000, 4000), "JPEG", quality=90)


@needs_fork
def test_every_call_accepts_a_large_photo(
    start_server: Callable[..., Any], one_model: Path, large_photo: bytes
) -> None:
    server = start_server(one_model)
    with Client(server.address, max_attempts=1) as client:
        expected = client.classify([read_fitted(large_photo, RULE)])[0]
        found = client.classify([large_photo, GOOD_PNG, large_photo])
        assert found[0].label == found[2].label == expected.label
        assert len(client.embed([large_photo])) == 1
        (frame,) = client.stream([large_photo], camera_id="door")
        assert frame.prediction is not None
        assert frame.prediction.label == expected.label


@pytest.mark.ci
@needs_fork
def test_slow_images_delay_neither_others_nor_health(
    start_server: Callable[..., Any],
    one_model: Path,
    large_photo: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goes_on = threading.Event()

    def held(*arguments: Any, **more: Any) -> Any:
        assert goes_on.wait(60)
        return decode_apart(*arguments, **more)

    monkeypatch.setattr("limelens.serve.image.encoded.decode_apart", held)
    server = start_server(one_model, num_threads=1)
    slow_images = server.server.runner.slow_images
    with (
        Client(server.address, max_attempts=1) as client,
        grpc.insecure_channel(server.address) as opened,
        ThreadPoolExecutor(1) as pool,
    ):
        health = health_pb2_grpc.HealthStub(opened)
        attack = pool.submit(client.classify, [large_photo] * 8)
        try:
            until(lambda: slow_images.num_running)
            # The one worker is free for these while the large ones are under way.
            for _ in range(20):
                assert client.classify([np.zeros((8, 8, 3), np.uint8)])
                assert health.Check(health_pb2.HealthCheckRequest()).status
            assert slow_images.num_running
        finally:
            goes_on.set()
        assert len(attack.result()) == 8


def test_a_costly_image_is_named_in_the_answer(
    start_server: Callable[..., Any], one_model: Path
) -> None:
    server = start_server(one_model)
    with Client(server.address, max_attempts=1) as client:
        for data in COSTLY.values():
            with pytest.raises(InvalidImageError) as caught:
                client.classify([GOOD_PNG, data])
            assert caught.value.field == "images[1].encoded"
        assert client.classify([GOOD_PNG])
