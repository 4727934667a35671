"""Many images explained, by a server and in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.phone import WIDTH, widths_on_a_phone
from tests.waiting import slow_by, until

from limelens.serve import Client
from limelens.serve.bundle import Bundle
from limelens.serve.client.in_process import local_client
from limelens.serve.errors import InvalidRequestError, NotFoundError, UnavailableError
from limelens.serve.rpc.server_config import ServiceSettings
from limelens.serve.tools.explain_report.explain_many import LabeledFile, explain_many
from limelens.serve.tools.explain_report.page import Gallery

pytest.importorskip("skimage")

OPTIONS: dict[str, Any] = {"segmentation": "grid", "num_segments": 6, "num_samples": 64, "seed": 1}


@pytest.fixture
def files(tmp_path: Path) -> list[LabeledFile]:
    """Twelve red images; the fourth is a text."""
    found = []
    for number in range(12):
        path = tmp_path / f"{number:02}.png"
        Image.fromarray(np.full((40, 50, 3), (200 + number, 0, 0), np.uint8)).save(path)
        found.append(LabeledFile(path))
    found[3].path.write_text("no image")
    return found


def test_images_come_in_their_order_and_a_bad_one_stops_nothing(
    client: Client, files: list[LabeledFile]
) -> None:
    found = list(explain_many(client, files, num_parallel=4, **OPTIONS))
    assert [one.file for one in found] == files
    assert [bool(one.error) for one in found] == [number == 3 for number in range(12)]
    for one in found:
        if not one.error:
            assert one.explanation is not None
            alone = client.explain(one.file.path, **OPTIONS)
            assert one.explanation.explanations == alone.explanations


def test_a_busy_server_is_called_again(
    start_server: Callable[..., Any], files: list[LabeledFile]
) -> None:
    server = start_server(service=ServiceSettings(max_explanations=1, max_waiting_explanations=0))
    with Client(server.address, max_attempts=1) as client:
        found = list(explain_many(client, files[4:8], num_parallel=3, **OPTIONS))
    assert not [one for one in found if one.error]


def test_two_images_are_explained_at_a_time(
    one_model: Path, files: list[LabeledFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, lock = Bundle.predict, threading.Lock()
    inside: list[int] = []
    together: set[tuple[int, ...]] = set()

    def slowly(self: Bundle, images: np.ndarray) -> np.ndarray:
        with lock:
            inside.append(int(images.max()))  # each image has a red of its own
            together.add(tuple(sorted(set(inside))))
        slow_by(0.02)
        with lock:
            inside.remove(int(images.max()))
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", slowly)
    client = local_client(one_model / "colours" / "1", "cpu")
    assert len(list(explain_many(client, files[4:8], num_parallel=2, **OPTIONS))) == 4
    assert max(map(len, together)) == 2


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (InvalidRequestError, {"labels": ["pink"]}),
        (InvalidRequestError, {"num_samples": 3}),
        (NotFoundError, {"model": "elsewhere"}),
    ],
)
def test_an_error_that_concerns_all_images_is_raised(
    client: Client, files: list[LabeledFile], error: type[Exception], arguments: dict[str, Any]
) -> None:
    with pytest.raises(error):
        list(explain_many(client, files, num_parallel=2, **{**OPTIONS, **arguments}))


def test_an_unreachable_server_ends_it(files: list[LabeledFile]) -> None:
    with Client("127.0.0.1:1", max_attempts=1) as client, pytest.raises(UnavailableError):
        list(explain_many(client, files, num_parallel=2, **OPTIONS))


def test_closing_the_iterator_starts_no_further_image(
    one_model: Path, files: list[LabeledFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, began = Bundle.predict, []

    def counted(self: Bundle, images: np.ndarray) -> np.ndarray:
        began.append(len(images))
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", counted)
    client = local_client(one_model / "colours" / "1", "cpu")
    num_threads = threading.active_count()
    reading = explain_many(client, files[4:], num_parallel=1, **OPTIONS)
    next(reading)
    reading.close()
    until(lambda: threading.active_count() <= num_threads)
    assert len(began) < 8 * 3


@pytest.mark.ci
def test_the_page_fits_a_phone(client: Client, files: list[LabeledFile], tmp_path: Path) -> None:
    gallery = Gallery("Twelve red images in " + "a/very/long/path" * 9, tmp_path)
    options = {**OPTIONS, "renderings": ["overlay"]}
    for one in explain_many(client, files[2:5], num_parallel=1, **options):
        gallery.add(one)
    gallery.write(tmp_path / "page.html")
    pages = {"page": tmp_path / "page.html"}
    assert widths_on_a_phone(pages, tmp_path) == {"page": WIDTH}
