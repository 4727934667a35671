"""Real videos, made here, and a real camera on loopback, read as sources of frames."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from tests.cameras.mjpeg_camera import BLUE, GREEN, RED, MjpegCamera, jpeg
from tests.waiting import until

from limelens.serve import Client
from limelens.serve.client.results import ChangeStatus, FrameStatus
from limelens.serve.errors import NotFoundError, UnavailableError
from limelens.serve.tools.camera import SourceError, open_source, watch
from limelens.serve.tools.camera.places import Kind, place


def save_video(
    path: Path,
    colours: list[tuple[int, int, int]],
    *,
    fps: int = 10,
    codec: str = "libx264",
    right: tuple[int, int, int] | None = None,
    below: tuple[int, int, int] | None = None,
) -> Path:
    """A video of one-coloured frames, 64x32; `right` and `below` colour these halves."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for colour in colours:
            pixels = np.full((32, 64, 3), colour, np.uint8)
            if right is not None:
                pixels[:, 32:] = right
            if below is not None:
                pixels[16:] = below
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def pixels_of(encoded: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB")).astype(np.int64)


def strongest(encoded: bytes) -> str:
    with Image.open(io.BytesIO(encoded)) as image:
        mean = np.asarray(image.convert("RGB")).reshape(-1, 3).mean(axis=0)
    return "rgb"[int(mean.argmax())]


@pytest.fixture
def camera() -> Iterator[MjpegCamera]:
    with MjpegCamera() as camera:
        yield camera


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "mpeg4")])
def test_frames_of_a_video_come_in_order_with_their_time(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = save_video(tmp_path / name, [RED, RED, GREEN, BLUE, BLUE], codec=codec)
    with open_source(path) as source:
        found = list(source)
    assert not source.is_live
    assert [frame.frame_id for frame in found] == [0, 1, 2, 3, 4]
    assert [frame.place for frame in found] == [
        "0.000 s",
        "0.100 s",
        "0.200 s",
        "0.300 s",
        "0.400 s",
    ]
    assert "".join(strongest(frame.image) for frame in found) == "rrgbb"
    assert source.num_skipped == 0


def test_a_limit_on_the_frame_rate_follows_the_videos_timestamps(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.mp4", [RED] * 20)
    with open_source(path, max_fps=4) as source:
        times = [float(frame.place.removesuffix(" s")) for frame in source]
    assert times == pytest.approx([0, 0.3, 0.5, 0.8, 1.0, 1.3, 1.5, 1.8])


def test_a_video_that_was_filmed_upright_stands_upright(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.mp4", [RED], right=BLUE)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    quarter_turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = quarter_turn
    path.write_bytes(data)
    with open_source(path) as source:
        (frame,) = source
    with Image.open(io.BytesIO(frame.image)) as image:
        assert image.size == (32, 64)
        top, bottom = image.getpixel((16, 8)), image.getpixel((16, 56))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert (top.index(max(top)), bottom.index(max(bottom))) == (0, 2)


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((ONE, 0, 0, ONE), lambda pixels: pixels),
        ((-ONE, 0, 0, ONE), lambda pixels: pixels[:, ::-1]),
        ((ONE, 0, 0, -ONE), lambda pixels: pixels[::-1]),
        ((-ONE, 0, 0, -ONE), lambda pixels: pixels[::-1, ::-1]),
        ((0, ONE, ONE, 0), lambda pixels: pixels.swapaxes(0, 1)),
        ((0, -ONE, -ONE, 0), lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1)),
        ((0, ONE, -ONE, 0), lambda pixels: np.rot90(pixels, -1)),
        ((0, -ONE, ONE, 0), lambda pixels: np.rot90(pixels)),
    ],
)
def test_all_eight_orientations_are_made_upright(
    tmp_path: Path, matrix: tuple[int, int, int, int], upright: Callable[[Any], Any]
) -> None:
    path = save_video(tmp_path / "a.mp4", [RED], right=BLUE, below=GREEN)
    with open_source(path) as source:
        (stored,) = source
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = matrix
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    with open_source(path) as source:
        (frame,) = source
    expected = upright(pixels_of(stored.image))
    assert pixels_of(frame.image).shape == expected.shape
    assert np.abs(pixels_of(frame.image) - expected).mean() < 8


def test_a_cover_image_is_not_the_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        small = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux(cover.encode(small.reformat(format="yuvj420p")))
        for _ in range(3):
            pixels = np.full((32, 64, 3), RED, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    with open_source(path) as source:
        assert [pixels_of(frame.image).shape for frame in source] == [(32, 64, 3)] * 3


def test_joined_recordings_are_read_to_their_end(tmp_path: Path) -> None:
    first = save_video(tmp_path / "a.ts", [RED] * 20)
    second = save_video(tmp_path / "b.ts", [GREEN] * 20)
    joined = tmp_path / "ab.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with open_source(joined, max_fps=5) as source:
        seen = "".join(strongest(frame.image) for frame in source)
    assert (seen.count("r"), seen.count("g")) == (10, 10)


def test_a_video_without_timestamps_uses_its_rate_with_a_warning(tmp_path: Path) -> None:
    path = save_video(tmp_path / "raw.h264", [RED] * 40)
    reported: list[str] = []
    with open_source(path, max_fps=2, report=reported.append) as source:
        assert len(list(source)) == 8
    assert reported == [f"{path}: frames without timestamps; they are taken to come at 10 a second"]


def test_dangling_links_in_a_folder_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(RED))
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    reported: list[str] = []
    with open_source(tmp_path, report=reported.append) as source:
        assert len(list(source)) == 1
    assert "b.jpg: a link to" in reported[0]


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://admin:SE#CRET@127.0.0.1:1/live",
        "rtsp://admin:SE/CRET@127.0.0.1:1/live",
        "rtsp://admin:SE?CRET@127.0.0.1:1/live",
        "rtsp://admin:SE[CRET@127.0.0.1:1/live",
        "rtsp://admin:SE]CRET@127.0.0.1:1/live",
        "rtsp://admin:SE@CRET@127.0.0.1:1/live",
        "rtsp://admin:12/CRET@127.0.0.1:1/live",
        "rtsp://admin:SE%23CRET@127.0.0.1:1/live",
        "rtsp://admin:SE CRET@127.0.0.1:1/live",
        "rtsp://admin:SE\\CRET@127.0.0.1:1/live",
        "rtsp://[::1]:1/live?token=CRET",
        "http://127.0.0.1:1/flv?app=bcs&user=admin&password=SECRET",
        "http://127.0.0.1:1/flv?user=a@b.c&password=SECRET",
        "rtsp://127.0.0.1:1/user=admin_password=SECRET_channel=1.sdp",
        "http://127.0.0.1:1/live#SECRET",
        " rtsp://admin:SECRET@127.0.0.1:1/live",
        "rtsp:/admin:SECRET@127.0.0.1:1/live",
        "admin:SECRET@127.0.0.1/live",
        "rstp://admin:SECRET@127.0.0.1/live",
    ],
)
def test_no_part_of_an_address_that_may_be_a_password_is_shown(address: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(address)
    assert "CRET" not in str(caught.value)
    assert "SE" not in str(caught.value).replace("rtSP", "")


def test_frames_have_the_requested_jpeg_quality(tmp_path: Path) -> None:
    path = tmp_path / "noise.mkv"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    sizes = []
    for quality in (20, 95):
        with open_source(path, quality=quality) as source:
            sizes += [len(frame.image) for frame in source]
    assert sizes[1] > 2 * sizes[0]


def test_the_images_of_a_folder_come_by_name_and_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "b.jpg").write_bytes(jpeg(GREEN))
    (tmp_path / "a.jpg").write_bytes(jpeg(RED))
    (tmp_path / "in" / "c.PNG").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either")
    with open_source(tmp_path) as source:
        found = list(source)
    assert [Path(frame.place).name for frame in found] == ["a.jpg", "b.jpg", "c.PNG"]
    assert found[0].image == jpeg(RED)
    with open_source(tmp_path / "a.jpg") as source:
        assert len(list(source)) == 1


def test_a_video_may_come_on_standard_input(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.mkv", [RED, GREEN])
    code = (
        "from limelens.serve.tools.camera import open_source\n"
        "print(len([frame.image for frame in open_source('-')]))"
    )
    with path.open("rb") as video:
        found = subprocess.run(
            [sys.executable, "-c", code], stdin=video, capture_output=True, timeout=60, check=False
        )
    assert found.stdout.strip() == b"2", found.stderr


def let_pass(source: Any, count: int) -> None:
    """Waits until so many more frames of a camera, 20 ms apart, were overtaken by newer ones."""
    before = source.num_skipped
    until(lambda: source.num_skipped >= before + count)


def test_a_camera_yields_its_newest_frame(camera: MjpegCamera) -> None:
    with open_source(camera.url) as source:
        assert source.is_live
        frames = iter(source)
        first = next(frames)
        assert strongest(first.image) == "r"
        assert first.capture_time is not None
        camera.colour = GREEN
        let_pass(source, 20)
        assert strongest(next(frames).image) == "g"
        assert [first.frame_id, next(frames).frame_id] == [0, 2]


def test_a_frame_that_waited_says_since_when(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.mp4", [RED] * 5)
    with open_source(path, live=True) as source:
        until(lambda: source.num_skipped == 4)
        now = time.monotonic()
        last = source.take()
    assert last is not None
    assert last.read_at < now


def test_a_camera_keeps_to_the_frame_rate_limit(camera: MjpegCamera) -> None:
    with open_source(camera.url, max_fps=10) as source:
        began = time.monotonic()
        for _, _frame in zip(range(6), source, strict=False):
            pass
        assert time.monotonic() - began > 0.49


def test_a_lost_camera_is_reopened(camera: MjpegCamera) -> None:
    reported: list[str] = []
    with open_source(camera.url, report=reported.append) as source:
        frames = iter(source)
        assert strongest(next(frames).image) == "r"
        camera.status = 503
        camera.colour = GREEN
        camera.hang_up()
        until(lambda: len(reported) == 2)
        camera.status = 200
        for frame in frames:
            if strongest(frame.image) == "g":
                break
        # ffmpeg itself may connect more than once to find out what it is.
        assert camera.num_connections >= 2
    name = f"http://{camera.address}/…"
    assert reported == [
        f"{name}: cannot be read: it closed the connection; looking for it again",
        f"{name}: cannot be read: it answers, but cannot serve now; looking for it again",
        f"{name}: found again",
    ]


def test_stopping_ends_every_wait(camera: MjpegCamera) -> None:
    source = open_source(camera.url, max_fps=0.01)
    frames = iter(source)
    next(frames)
    threading.Timer(0.2, source.stop).start()
    assert list(frames) == []
    assert source.is_stopped
    source.close()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere.mp4", "nowhere.mp4: no such file; expected a device's number"),
        ("77", "77: cannot be read"),
        ("/dev/video77", "/dev/video77: cannot be read: No such file or directory"),
        ("ftp://door/a.mp4", "ftp://… is not read; expected http, https"),
        (
            "rtsp://user:secret@127.0.0.1:9/x",
            "rtsp://127.0.0.1:9/…: cannot be read: connection refused",
        ),
        ("{folder}/empty", "no images in it; expected .bmp"),
        ("{folder}/text.mp4", "cannot be read: Invalid data"),
        ("{folder}/sound.mkv", "no video in it"),
    ],
)
def test_a_source_that_cannot_be_opened_is_an_error_with_a_reason(
    tmp_path: Path, source: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
    with pytest.raises(SourceError) as caught:
        open_source(source.format(folder=tmp_path))
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_names_are_read_without_opening_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert (place("0").kind, place("0").path, place("0").format) == (
        Kind.DEVICE, "/dev/video0", "v4l2",
    )  # fmt: skip
    assert place("-").kind is Kind.STDIN
    assert place("RTSP://a:b@door/x?c=1").name == "rtsp://door/…"
    assert ("rtsp_transport", "tcp") in place("rtsp://door").options
    assert "secret" not in repr(place("rtsp://user:secret@door"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert (place("1").path, place("1").format) == ("1", "avfoundation")


def test_every_frame_of_a_video_is_classified(client: Client, tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.mp4", [RED] * 10 + [GREEN] * 10)
    with open_source(path) as source:
        seen = list(watch(client, source, smoothing=(3, 2)))
    assert [one.answer.status for one in seen] == [FrameStatus.CLASSIFIED] * 20
    changed = [(one.place, one.answer.smoothed_label) for one in seen if one.answer.changed]
    assert changed == [("0.100 s", "red"), ("1.100 s", "green")]


def test_an_explanation_has_the_place_of_its_frame(client: Client, tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.mp4", [RED] * 3 + [GREEN] * 3)
    options = {"segmentation": "grid", "num_segments": 4, "num_samples": 20}
    with open_source(path) as source:
        seen = list(watch(client, source, explain_on_change=options))
    news = [one for one in seen if one.answer.explanation is not None]
    assert [one.place for one in news] == ["0.000 s", "0.300 s"]


@pytest.mark.parametrize("alerts_only", [False, True])
def test_each_change_of_a_file_is_explained_however_fast_it_is_read(
    client: Client, tmp_path: Path, alerts_only: bool
) -> None:
    path = save_video(tmp_path / "a.mp4", [RED, GREEN, BLUE] * 4)
    with open_source(path) as source:
        watching = watch(
            client,
            source,
            explain_on_change={"num_samples": 500},
            explain_alerts_only=alerts_only,
        )
        reported = [one.answer.explanation for one in watching]
    statuses = [one.status for one in reported if one is not None]
    assert statuses == [ChangeStatus.EXPLAINED] * (4 if alerts_only else 12)


def test_a_broken_video_is_an_error_after_its_good_part(client: Client, tmp_path: Path) -> None:
    (tmp_path / "b.jpg").symlink_to("/proc/self/mem")  # a file whose first byte cannot be read
    (tmp_path / "a.jpg").write_bytes(jpeg(RED))
    with open_source(tmp_path) as source:
        watching = watch(client, source)
        assert next(watching).answer.smoothed_label == "red"
        with pytest.raises(OSError, match="Input/output error"):
            next(watching)


def test_a_camera_continues_when_its_server_comes_back(
    start_server: Callable[..., Any], camera: MjpegCamera
) -> None:
    server = start_server()
    reported: list[str] = []
    with Client(server.address) as client, open_source(camera.url) as source:
        watching = watch(client, source, report=reported.append)
        # On a busy machine the first frames may be overtaken.
        classified = next(seen for seen in watching if seen.answer.prediction is not None)
        assert classified.answer.smoothed_label == "red"
        server.stop()
        again = threading.Timer(0.5, lambda: start_server(listen=server.address))
        again.start()
        for seen in watching:
            if reported and seen.answer.prediction is not None:
                break
        again.join()
        assert "trying again" in reported[0]
        source.stop()
        list(watching)


def lose(server: Any, watching: Iterator[Any]) -> None:
    """Stops a server once it has classified a frame."""
    next(seen for seen in watching if seen.answer.prediction is not None)
    server.stop()


def test_after_an_outage_the_frames_are_new(
    start_server: Callable[..., Any], camera: MjpegCamera
) -> None:
    server = start_server()
    lost = threading.Event()
    with Client(server.address) as client, open_source(camera.url) as source:
        watching = watch(client, source, report=lambda _message: lost.set())
        lose(server, watching)

        def come_back() -> None:
            assert lost.wait(30)
            let_pass(source, 50)
            camera.colour = GREEN
            let_pass(source, 50)
            start_server(listen=server.address)

        coming = threading.Thread(target=come_back)
        coming.start()
        labels = []
        for seen in watching:
            if lost.is_set() and seen.answer.prediction is not None:
                labels.append(seen.answer.prediction.label)
                source.stop()
        coming.join()
    assert labels
    assert set(labels) == {"green"}


def test_stopping_while_the_server_is_lost_is_no_error(
    start_server: Callable[..., Any], camera: MjpegCamera
) -> None:
    server = start_server()
    reported: list[str] = []
    with Client(server.address) as client, open_source(camera.url) as source:
        watching = watch(client, source, report=reported.append)
        lose(server, watching)

        def stop() -> None:
            try:
                until(lambda: reported)
                let_pass(source, 50)
            finally:
                source.stop()

        stopping = threading.Thread(target=stop)
        stopping.start()
        list(watching)  # ends, though nobody answers any more
        stopping.join()
    assert len(reported) == 1


def test_a_file_ends_with_its_server(start_server: Callable[..., Any], tmp_path: Path) -> None:
    server = start_server()
    path = save_video(tmp_path / "a.mp4", [RED] * 500)
    with Client(server.address, max_attempts=1) as client, open_source(path) as source:
        watching = watch(client, source)
        next(watching)
        server.stop()
        with pytest.raises(UnavailableError):
            list(watching)


def test_a_model_that_is_not_served_ends_a_camera_too(client: Client, camera: MjpegCamera) -> None:
    with open_source(camera.url) as source, pytest.raises(NotFoundError):
        list(watch(client, source, model="cats"))
