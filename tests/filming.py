"""A camera on loopback that speaks MJPEG over HTTP, as cheap cameras do; it can be cut and moved.

It knows nothing of limelens.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image
from tests.waiting import until

Colour = tuple[int, int, int]
RED, GREEN, GREY = (255, 0, 0), (0, 255, 0), (99, 99, 99)
_NOISE = 8
"""A real camera never sends the same pixels twice."""


class FilmedCamera:
    """Films one colour, which may be changed.

    Args:
        colour: The first one.
        port: 0 takes a free one.
        login: `USER:PASSWORD` that it asks for; empty asks for nothing.
    """

    def __init__(self, colour: Colour = RED, *, port: int = 0, login: str = "") -> None:
        camera = self
        self.colour = colour
        self.login = login
        self.is_frozen = False
        self.is_silent = False
        self.num_open = 0
        self._number = 0
        self._hung_up = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                expected = f"Basic {base64.b64encode(camera.login.encode()).decode()}"
                if camera.login and self.headers.get("Authorization") != expected:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                camera.num_open += 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    while not camera._hung_up.wait(0.03):
                        if camera.is_silent:
                            continue
                        image = camera.frame()
                        self.wfile.write(
                            b"--frame\r\nContent-Type: image/jpeg\r\n"
                            b"Content-Length: %d\r\n\r\n%s\r\n" % (len(image), image)
                        )
                except OSError:
                    pass
                finally:
                    camera.num_open -= 1

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/live"

    def frame(self) -> bytes:
        """The next frame, a JPEG; no two are alike unless it is frozen."""
        self._number += not self.is_frozen
        image = Image.new("RGB", (64, 32), self.colour)
        image.paste((128, 128, 128), (0, 0, 1 + self._number % _NOISE, 2))
        file = io.BytesIO()
        image.save(file, "JPEG")
        return file.getvalue()

    def hang_up(self) -> None:
        """Cuts every connection; new ones are answered."""
        self._hung_up.set()
        until(lambda: not self.num_open)
        self._hung_up.clear()

    def close(self) -> None:
        """Cuts every connection, and is gone."""
        self._hung_up.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def filming(colour: Colour = RED, **settings: Any) -> Iterator[FilmedCamera]:
    """A camera that is there for as long as the context."""
    camera = FilmedCamera(colour, **settings)
    try:
        yield camera
    finally:
        camera.close()
