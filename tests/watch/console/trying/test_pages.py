"""The tab for trying an image, as its script asks for it: a real console, a real server."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.detectors import RED, frame_of, save_detector
from tests.waiting import PATIENCE_S, slow_by, until
from tests.watch.console.conftest import Browser, save_explainable

from limelens.serve import Bundle, Client

pytest.importorskip("skimage")

Start = Callable[..., Any]
FRAME = frame_of([(320, 160, 160, RED)])
EXPLAIN = "/try/explain?faces=true&segments=10&samples=100"


def encoded() -> bytes:
    file = io.BytesIO()
    Image.fromarray(FRAME).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def server(start_server: Start, tmp_path: Path) -> Any:
    detector = save_detector(tmp_path / "detector")
    return start_server(models=save_explainable(tmp_path / "models"), face_detector=str(detector))


@pytest.fixture
def browser(start_console: Start, browse: Callable[..., Browser], server: Any) -> Browser:
    return browse(start_console(client=lambda: Client(server.address)).address)


def send(browser: Browser, path: str, image: bytes = b"") -> Any:
    headers = {"x-csrf-token": browser.csrf("/try"), "content-type": "application/octet-stream"}
    return browser.post(path, content=image or encoded(), headers=headers)


def test_an_image_is_decided_then_explained_with_images_that_only_its_visitor_sees(
    browser: Browser, browse: Callable[..., Browser]
) -> None:
    page = browser.get("/try").text
    assert 'data-labels="[&#34;red&#34;, &#34;green&#34;, &#34;blue&#34;]"' in page
    part = send(browser, "/try/classify?faces=true").text
    assert 'data-state="alert"' in part
    # In units of a thousandth of the image's height.
    assert re.search(r'<rect class="face" x="666.[67]\d*" y="333.3', part)

    lines = [json.loads(line) for line in send(browser, EXPLAIN).text.splitlines()]
    assert [line["done"] for line in lines[:-1]][-1] == 100
    part = lines[-1]["part"]
    assert "of the face" in part
    images = re.findall(r'src="(/try/[^"]+)"', part)
    assert {path.rpartition("/")[2] for path in images} == {
        "frame.jpg", "overlay.jpg", "cut.jpg", "without.jpg", "alone.jpg"
    }  # fmt: skip
    for path in images:
        assert np.asarray(Image.open(io.BytesIO(browser.get(path).content))).shape[2] == 3
    other = browse(str(browser.base_url))
    other.get("/try")
    assert other.get(images[0]).status_code == 404


@pytest.mark.parametrize(
    ("path", "image", "words"),
    [
        ("/try/classify?model=nobody", b"", "The server refused that: .*nobody"),
        ("/try/classify", b"no image", "That cannot be read as an image: .*text; expected JPEG"),
        ("/try/classify?samples=5", b"", "The server refused that: samples: "),
        ("/try/explain?segments=5000", b"", "The server refused that: segments: "),
    ],
)
def test_what_the_server_or_the_page_refuses_is_said_in_a_sentence(
    browser: Browser, path: str, image: bytes, words: str
) -> None:
    refused = send(browser, path, image)
    assert refused.status_code == 400
    assert re.match(words, refused.text)


def test_an_image_that_is_too_large_is_refused_before_it_is_read(
    start_console: Start, browse: Callable[..., Browser], server: Any
) -> None:
    console = start_console(client=lambda: Client(server.address), max_upload_bytes=100_000)
    assert send(browse(console.address), "/try/classify", bytes(200_000)).status_code == 413


def test_a_viewer_may_not_try(
    start_console: Start, browse: Callable[..., Browser], server: Any, users: Path
) -> None:
    browser = browse(start_console(client=lambda: Client(server.address), users=users).address)
    browser.log_in("vera", "vera has a password")
    assert "Only operators may do that" in browser.get("/try").text
    for path in ("/try/classify", "/try/explain", "/try/cancel"):
        assert send(browser, path).status_code == 403


def test_the_page_says_that_the_server_does_not_answer(
    start_console: Start, browse: Callable[..., Browser]
) -> None:
    gone = start_console(client=lambda: Client("127.0.0.1:1", max_attempts=1))
    assert "The server does not answer" in browse(gone.address).get("/try").text


def test_cancelling_ends_the_work_at_the_server(
    browser: Browser, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Bundle.predict

    def slow(self: Bundle, images: np.ndarray) -> Any:
        slow_by(0.5)  # all of it takes longer than the cancelling by far
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", slow)
    received: list[Any] = []
    path = "/try/explain?segments=150&samples=4000"
    asking = threading.Thread(target=lambda: received.append(send(browser, path).text))
    asking.start()
    until(lambda: server.service.explainer.num_open == 1)
    assert send(browser, "/try/cancel").status_code == 204
    asking.join(PATIENCE_S)
    assert json.loads(received[0].splitlines()[-1]) == {"cancelled": True}
    until(lambda: server.service.explainer.num_open == 0)
