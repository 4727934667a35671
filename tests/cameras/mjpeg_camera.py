"""A camera on loopback that speaks MJPEG over HTTP, as cheap cameras do."""

from __future__ import annotations

import base64
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from PIL import Image
from tests.waiting import until

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
Colour = tuple[int, int, int]


def jpeg(colour: Colour, size: tuple[int, int] = (64, 32)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


class MjpegCamera:
    """Shows one colour, at 50 frames a second.

    `colour` and `size` are those of the next frames, unless they are `image`, any bytes; with a
    `status` it refuses new connections; with `user` it wants that user and password, as
    `USER:PASSWORD`; while it `is_silent` it keeps connections and sends nothing.
    """

    def __init__(self) -> None:
        camera = self
        self.colour = RED
        self.size = (64, 32)
        self.image = b""
        self.status = 200
        self.user = ""
        self.is_silent = False
        self.num_images = 0  # how often `image` was sent
        self.num_connections = 0
        self.num_open = 0
        self.hung_up = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if camera.status != 200:
                    self.send_error(camera.status)
                    return
                given = base64.b64encode(camera.user.encode()).decode()
                if camera.user and self.headers["Authorization"] != f"Basic {given}":
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="door"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                camera.num_connections += 1
                camera.num_open += 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    while not camera.hung_up.wait(0.02):
                        if not camera.is_silent:
                            self._send_frame()
                except OSError:
                    pass
                finally:
                    camera.num_open -= 1

            def _send_frame(self) -> None:
                image = camera.image or jpeg(camera.colour, camera.size)
                self.wfile.write(
                    b"--frame\r\nContent-Type: image/jpeg\r\n"
                    b"Content-Length: %d\r\n\r\n%s\r\n" % (len(image), image)
                )
                camera.num_images += image is camera.image

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://user:secret@{self.address}/live"

    def hang_up(self) -> None:
        """Closes every connection."""
        self.hung_up.set()
        until(lambda: not self.num_open)
        self.hung_up.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hung_up.set()
        self._server.shutdown()
        self._server.server_close()
