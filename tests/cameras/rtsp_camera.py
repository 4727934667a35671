"""A camera on loopback that speaks RTSP, in a process of its own; skips a test where it cannot.

It is Debian's gstreamer: `apt install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly
python3-gi`.
"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any, Final, Self

import pytest

_PYTHON: Final = Path("/usr/bin/python3")
_SERVER: Final = Path(__file__).with_name("rtsp_server.py")


class RtspCamera:
    """The camera; as a context manager it ends itself.

    Args:
        size: Width and height of its frames.
        pattern: What it shows, by gstreamer's `videotestsrc`: `ball` moves, `smpte` stands still.
        auth: `basic`, `digest`, or empty for everybody.
        password: Of the user `door`.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] = (320, 240),
        fps: int = 10,
        pattern: str = "ball",
        auth: str = "",
        password: str = "",
    ) -> None:
        self._settings: dict[str, Any] = {
            "port": 0, "size": size, "fps": fps, "pattern": pattern,
            "auth": auth, "user": "door", "password": password,
        }  # fmt: skip
        self.start()
        self.port: int = self._settings["port"]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"rtsp://{self.address}/live"

    def start(self, **changed: Any) -> None:
        """Starts it, at the same port as before, with some settings changed."""
        self._settings.update(changed)
        if not _PYTHON.exists():
            pytest.skip(f"there is no {_PYTHON}, which has gstreamer's bindings in Debian")
        self._process = subprocess.Popen(
            [_PYTHON, "-I", _SERVER, json.dumps(self._settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        port = self._line()
        if not port:
            errors = self._process.communicate()[1].strip().splitlines()
            pytest.skip(f"without gstreamer's RTSP server there is no camera: {errors[-1:]}")
        self._settings["port"] = int(port)

    def show(self, pattern: str) -> None:
        """Shows another pattern from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{pattern}\n")
        self._process.stdin.flush()
        assert self._line() == "shown"

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._process.kill()
        self._process.communicate()

    def fall_silent(self) -> None:
        """Sends nothing more, but keeps its connections."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Ends the silence."""
        self._process.send_signal(signal.SIGCONT)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
