"""Real cameras on loopback that are absent, lost, frozen, silent or closed to us, and come back."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from tests.cameras.mjpeg_camera import GREEN, RED, MjpegCamera, jpeg
from tests.cameras.rtsp_camera import RtspCamera
from tests.ports import free_port
from tests.waiting import until

from limelens.serve.tools.camera import LossReason, Source, SourceError, open_source

PASSWORD = "pa:s/s #1@%"
"""With all that an address would have to write in another way."""


class Told:
    """What a source calls back."""

    def __init__(self) -> None:
        self.news: list[str] = []
        self.sentences: list[str] = []

    def open(self, source: str, **options: Any) -> Source:
        return open_source(
            source,
            report=self.sentences.append,
            on_lost=lambda error: self.news.append(error.reason.value),
            on_back=lambda: self.news.append("back"),
            **options,
        )


@pytest.fixture
def told() -> Told:
    return Told()


def size_of(encoded: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(encoded)) as image:
        return image.size


def jpeg_colour(encoded: bytes) -> str:
    with Image.open(io.BytesIO(encoded)) as image:
        red, green, _ = np.asarray(image.convert("RGB")).reshape(-1, 3).mean(axis=0)
    return "green" if green > red else "red"


@pytest.mark.ci
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_killed_camera_comes_back_with_another_size(told: Told, transport: str) -> None:
    with RtspCamera() as camera, told.open(camera.url, transport=transport) as source:
        frames = iter(source)
        before = next(frames)
        assert size_of(before.image) == (320, 240)
        assert before.capture_time is not None
        assert abs(datetime.now(UTC) - before.capture_time) < timedelta(seconds=60)
        camera.kill()
        until(lambda: source.loss is not None)
        until(lambda: "refused" in told.news)
        camera.start(size=(640, 360))
        after = next(frame for frame in frames if size_of(frame.image) != (320, 240))
        assert size_of(after.image) == (640, 360)
        assert after.capture_time is not None
        assert after.capture_time > before.capture_time
        assert source.loss is None
    assert told.news == ["ended", "refused", "back"]
    name = f"rtsp://{camera.address}/…"
    assert told.sentences == [
        f"{name}: the camera ended; looking for it again",
        f"{name}: cannot be read: connection refused: nothing listens there; looking for it again",
        f"{name}: found again",
    ]


@pytest.mark.parametrize("auth", ["basic", "digest"])
def test_a_camera_takes_a_password_that_its_address_does_not_hold(auth: str) -> None:
    with RtspCamera(auth=auth, password=PASSWORD) as camera:
        for credentials, words in [
            ("", "asks for a user and a password (401)"),
            ("door:SECRET", "refuses the user or the password (401)"),
        ]:
            with pytest.raises(SourceError) as caught:
                open_source(camera.url, credentials=credentials)
            assert caught.value.reason is LossReason.UNAUTHORIZED
            assert words in str(caught.value)
            assert "SECRET" not in repr(caught.value) + str(caught.value.__context__)
        with open_source(camera.url, credentials=f"door:{PASSWORD}\n") as source:
            assert next(iter(source)).image


def test_a_password_is_read_again_when_a_camera_is_opened_again(told: Told, tmp_path: Path) -> None:
    secret = tmp_path / "camera.password"
    with MjpegCamera() as camera:
        camera.user = "door:new"
        url = f"http://{camera.address}/live"
        with told.open(url, wait=True, credentials=secret.read_text) as source:
            until(lambda: told.news)
            assert "password cannot be read: No such file" in told.sentences[0]
            assert told.news == ["unauthorized"]
        secret.write_text("door:new\n")
        with told.open(url, wait=True, credentials=secret.read_text) as source:
            assert next(iter(source)).image
    assert told.news == ["unauthorized"]


def test_an_absent_camera_is_waited_for(told: Told) -> None:
    with RtspCamera() as camera:
        camera.kill()
        with told.open(camera.url, wait=True) as source:
            assert source.is_live
            until(lambda: told.news == ["refused"])
            camera.start()
            assert size_of(next(iter(source)).image) == (320, 240)
    assert told.news == ["refused", "back"]


def test_an_absent_device_is_waited_for_too(told: Told) -> None:
    with told.open("/dev/video77", wait=True) as source:
        until(lambda: told.news)
        assert source.loss is not None
    assert told.news == ["not_found"]
    assert "No such file or directory" in told.sentences[0]


def test_stopping_ends_the_wait_for_an_absent_camera(told: Told) -> None:
    with told.open(f"rtsp://127.0.0.1:{free_port()}/live", wait=True) as source:
        until(lambda: told.news)
        source.stop()
        assert list(source) == []


@pytest.mark.ci
def test_a_camera_that_shows_one_frame_again_and_again_is_frozen(told: Told) -> None:
    with RtspCamera() as camera, told.open(camera.url, frozen_after_s=3) as source:
        frames = iter(source)
        next(frames)
        # It stands still, but each whole frame is encoded a little differently for a while.
        camera.show("circular")
        until(lambda: told.news)
        assert source.loss is not None
        assert source.loss.reason is LossReason.FROZEN
        camera.show("ball")
        assert next(frames).image
        until(lambda: source.loss is None)
    assert told.news == ["frozen", "back"]
    assert "the same frame for 3 s or longer; waiting for another frame" in told.sentences[0]


def test_a_frozen_mjpeg_camera_yields_nothing_until_it_goes_on(told: Told) -> None:
    with MjpegCamera() as camera, told.open(camera.url, frozen_after_s=0.5) as source:
        frames = iter(source)
        next(frames)
        until(lambda: told.news == ["frozen"])
        camera.colour = GREEN
        assert next(frames).image
    # It shows one colour again: on a busy machine it may freeze once more before it is closed.
    assert told.news[:2] == ["frozen", "back"]


def test_files_never_freeze(told: Told, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(RED))
    with told.open(str(tmp_path), frozen_after_s=1e-6) as source:
        assert [frame.position_s for frame in source] == pytest.approx([0, 0.2, 0.4, 0.6])
    assert told.news == []


@pytest.mark.ci
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_silent_camera_is_lost_and_comes_back(told: Told, transport: str) -> None:
    with RtspCamera() as camera, told.open(camera.url, transport=transport) as source:
        frames = iter(source)
        next(frames)
        camera.fall_silent()
        until(lambda: told.news)
        assert told.news == ["timeout"]
        assert "no answer for 5 s" in told.sentences[0]
        camera.go_on()
        until(lambda: source.loss is None)
        next(frames)
    assert told.news[-1] == "back"


@pytest.mark.ci
def test_a_silent_mjpeg_camera_is_lost_and_comes_back(told: Told) -> None:
    with MjpegCamera() as camera, told.open(camera.url) as source:
        frames = iter(source)
        next(frames)
        camera.is_silent = True
        until(lambda: told.news == ["timeout"])
        camera.is_silent = False
        until(lambda: source.loss is None)
        next(frames)
    assert told.news == ["timeout", "back"]


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (401, LossReason.UNAUTHORIZED, "refuses the user or the password (401)"),
        (403, LossReason.FORBIDDEN, "this user may not see it (403)"),
        (404, LossReason.NOT_FOUND, "it has no such stream (404)"),
        (503, LossReason.BUSY, "it answers, but cannot serve now"),
    ],
)
def test_what_a_camera_answers_is_said(status: int, reason: LossReason, words: str) -> None:
    with MjpegCamera() as camera:
        camera.status = status
        with pytest.raises(SourceError) as caught:
            open_source(camera.url)
    assert caught.value.reason is reason
    assert words in str(caught.value)


def test_an_unknown_host_and_a_missing_stream_are_told_apart() -> None:
    with pytest.raises(SourceError) as caught:
        open_source("rtsp://camera.invalid/live")
    assert caught.value.reason is LossReason.UNKNOWN_HOST
    assert "nobody knows a host of this name (DNS)" in str(caught.value)
    with RtspCamera() as camera, pytest.raises(SourceError) as caught:
        open_source(camera.url.replace("live", "other"))
    assert caught.value.reason is LossReason.NOT_FOUND


@pytest.mark.ci
def test_frames_that_cannot_be_decoded_make_a_camera_lost(told: Told) -> None:
    with MjpegCamera() as camera, told.open(camera.url) as source:
        frames = iter(source)
        next(frames)
        camera.image = jpeg(RED)[:200]
        until(lambda: told.news)
        assert told.news == ["no_video"]
        assert "no frame in what came for 10 s" in told.sentences[0]
        camera.image = b""
        until(lambda: source.loss is None)


def test_a_frame_of_too_many_pixels_is_left_out(told: Told) -> None:
    too_large = jpeg(RED, (9000, 6000))
    with MjpegCamera() as camera, told.open(camera.url) as source:
        frames = iter(source)
        next(frames)
        camera.image = too_large
        until(lambda: camera.num_images >= 3)
        camera.image, camera.size = b"", (80, 40)
        sizes = {size_of(next(frames).image)}
        while (80, 40) not in sizes:
            sizes.add(size_of(next(frames).image))
    # Another size that is not too large is taken as it comes.
    assert sizes <= {(64, 32), (80, 40)}
    assert told.news == []


def test_a_video_on_a_web_server_is_a_file_though_it_is_waited_for(
    told: Told, tmp_path: Path, web: Callable[[Path], str]
) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for _ in range(5):
            pixels = np.zeros((32, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    with told.open(f"{web(tmp_path)}a.mp4", wait=True) as source:
        assert [frame.position_s for frame in source] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
        assert not source.is_live


@pytest.fixture
def web() -> Iterator[Callable[[Path], str]]:
    """Serves a folder over HTTP; gives its address."""
    servers: list[subprocess.Popen[str]] = []

    def serve(folder: Path) -> str:
        servers.append(
            subprocess.Popen(
                [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1"],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        )
        out = servers[-1].stdout
        assert out is not None
        return f"http://127.0.0.1:{out.readline().split(' port ')[1].split()[0]}/"

    yield serve
    for server in servers:
        server.kill()
        server.communicate()


def test_a_page_is_no_video(tmp_path: Path, web: Callable[[Path], str]) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(web(tmp_path))
    assert caught.value.reason is LossReason.NO_VIDEO


def test_ffmpeg_prints_no_password() -> None:
    code = (
        "import sys\nfrom limelens.serve.tools.camera import open_source\nopen_source(sys.argv[1])"
    )
    with MjpegCamera() as camera:
        camera.user = "door:other"
        found = subprocess.run(
            [sys.executable, "-c", code, camera.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert found.returncode == 1
    assert "SourceError" in found.stderr  # with its traceback
    assert "refuses the user or the password (401)" in found.stderr
    assert "secret" not in found.stderr + found.stdout


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("rtsp://other:SECRET@127.0.0.1/live", "the address names a user"),
        ("/dev/video77", "takes no password"),
    ],
)
def test_a_password_that_cannot_be_used_is_refused(source: str, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(source, credentials="door:SECRET")
    assert words in str(caught.value)
    assert "SECRET" not in str(caught.value)
