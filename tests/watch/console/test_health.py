"""The page about the machinery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.conftest import Authority
from tests.waiting import until
from tests.watch.console.conftest import Browser

from limelens.serve.client import Client
from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.watch.console.serving import Console
from limelens.watch.console.timings import Timings
from limelens.watch.live import LiveCamera, LiveCameras

Start = Callable[..., Console]
Browse = Callable[..., Browser]


def camera(name: str, **more: Any) -> LiveCamera:
    state = CameraState.UNKNOWN if "reason" in more else CameraState.CLEAR
    return LiveCamera(name, "", state, datetime.now(UTC), **more)


def test_percentiles_are_of_frames_and_not_of_looks() -> None:
    timings = Timings(LiveCameras())
    door = camera("door")
    timings.look([door])
    assert timings.total_ms("door") is None
    for number in range(1, 101):
        shown = replace(door, num_frames=number, total_ms=float(number), queue_ms=1.0)
        timings.look([shown])
        timings.look([shown])  # nothing new
    total, queue = timings.total_ms("door"), timings.queue_ms("door")
    assert total is not None
    assert queue is not None
    assert (total.count, total.p50, total.p99) == (100, 51, 99)
    assert (queue.p50, queue.p99) == (1, 1)
    timings.look([])
    assert timings.total_ms("door") is None


def test_health_names_everything_that_is_wrong_and_what_runs_where(
    start_console: Start,
    browse: Browse,
    start_server: Callable[..., Any],
    users: Path,
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path / "ca", "ca")
    cert, key = authority.issue("door", days=2)
    server = start_server()
    live = LiveCameras()
    live.put(camera("door", model="colours", version=1, provider="cpu", num_frames=1, total_ms=7.5))
    live.put(camera("<yard>", reason=UnknownReason.CAMERA_LOST, detail="401"))
    console = start_console(
        live,
        client=lambda: Client(server.address, timeout_s=30),
        problems=lambda: ["webhook: refused; 14 events wait"],
        users=users,
        tls_cert=cert,
        tls_key=key,
    )
    browser = browse(console.address, authority.path)
    browser.log_in("vera", "vera has a password")
    until(lambda: "7.5 / 7.5" in browser.get("/health").text)
    page = browser.get("/health").text
    for expected in (
        "Camera &lt;yard&gt; is unknown: 401",
        "webhook: refused; 14 events wait",
        "certificate ends in 1 day.",
        "Ready, on CPUExecutionProvider, fp32",
    ):
        assert expected in page, expected
    assert "Nothing is wrong" not in page
    server.stop(0)
    users.write_text("broken")
    page = browser.get("/health/now").text
    assert "The server does not answer" in page
    assert "users.toml is not TOML" in page
