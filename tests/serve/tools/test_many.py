"""Many images explained, by a server and in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limelens.serve import Client
from limelens.serve.bundle import Bundle
from limelens.serve.client.in_process import local_client
from limelens.serve.errors import InvalidRequestError, NotFoundError, UnavailableError
from limelens.serve.rpc.classifier_service import ServiceSettings
from limelens.serve.tools.explain_report.bulk import Place, explain_many

pytest.importorskip("skimage")

OPTIONS: dict[str, Any] = {"segmentation": "grid", "num_segments": 6, "num_samples": 64, "seed": 1}


@pytest.fixture
def places(tmp_path: Path) -> list[Place]:
    """Twelve red images; the fourth is a text."""
    found = []
    for number in range(12):
        path = tmp_path / f"{number:02}.png"
        Image.fromarray(np.full((40, 50, 3), (200 + number, 0, 0), np.uint8)).save(path)
        found.append(Place(path))
    found[3].path.write_text("no image")
    return found


def test_images_come_in_their_order_and_a_bad_one_stops_nothing(
    client: Client, places: list[Place]
) -> None:
    found = list(explain_many(client, places, at_once=4, **OPTIONS))
    assert [one.place for one in found] == places
    assert [bool(one.error) for one in found] == [number == 3 for number in range(12)]
    for one in found:
        if not one.error:
            assert one.explanation is not None
            alone = client.explain(one.place.path, **OPTIONS)
            assert one.explanation.explanations == alone.explanations


def test_a_busy_server_is_asked_again(
    start_server: Callable[..., Any], places: list[Place]
) -> None:
    server = start_server(service=ServiceSettings(max_explanations=1, max_waiting_explanations=0))
    with Client(server.address, max_attempts=1) as client:
        found = list(explain_many(client, places[4:8], at_once=3, **OPTIONS))
    assert not [one for one in found if one.error]


def test_two_images_are_worked_on_at_a_time(
    one_model: Path, places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, lock = Bundle.predict, threading.Lock()
    inside: list[int] = []
    together: set[tuple[int, ...]] = set()

    def slowly(self: Bundle, images: np.ndarray) -> np.ndarray:
        with lock:
            inside.append(int(images.max()))  # each image has a red of its own
            together.add(tuple(sorted(set(inside))))
        time.sleep(0.02)
        with lock:
            inside.remove(int(images.max()))
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", slowly)
    client = local_client(one_model / "colours" / "1", "cpu")
    assert len(list(explain_many(client, places[4:8], at_once=2, **OPTIONS))) == 4
    assert max(map(len, together)) == 2


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (InvalidRequestError, {"labels": ["pink"]}),
        (InvalidRequestError, {"num_samples": 3}),
        (NotFoundError, {"model": "elsewhere"}),
    ],
)
def test_what_holds_for_all_images_is_raised(
    client: Client, places: list[Place], error: type[Exception], arguments: dict[str, Any]
) -> None:
    with pytest.raises(error):
        list(explain_many(client, places, at_once=2, **{**OPTIONS, **arguments}))


def test_where_nobody_answers_it_ends(places: list[Place]) -> None:
    with Client("127.0.0.1:1", max_attempts=1) as client, pytest.raises(UnavailableError):
        list(explain_many(client, places, at_once=2, **OPTIONS))


def test_stopped_in_the_middle_the_rest_never_begins(
    one_model: Path, places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, began = Bundle.predict, []

    def counted(self: Bundle, images: np.ndarray) -> np.ndarray:
        began.append(len(images))
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", counted)
    client = local_client(one_model / "colours" / "1", "cpu")
    reading = explain_many(client, places[4:], at_once=1, **OPTIONS)
    next(reading)
    reading.close()
    num_calls = len(began)
    time.sleep(0.2)
    assert len(began) == num_calls < 8 * 3
