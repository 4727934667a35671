"""Trying an image against a real server with a real detector."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.detectors import BLUE, RED, frame_of, save_detector
from tests.waiting import slow_by, until

from limelens.serve import Bundle, Client, InvalidRequestError, NotFoundError
from limelens.watch.console.trying.asked import Asked
from limelens.watch.console.trying.trial import Progress, Tried, classify, explain

pytest.importorskip("skimage")

FRAME = frame_of([(40, 40, 40, BLUE), (320, 160, 160, RED)])


@pytest.fixture
def server(start_server: Callable[..., Any], tmp_path: Path) -> Any:
    return start_server(face_detector=str(save_detector(tmp_path / "detector")))


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_whole_image_is_explained_with_progress_and_steps(client: Client) -> None:
    pixels = np.zeros((1200, 1600, 3), np.uint8)
    pixels[:, :800, 0] = 250
    asked = Asked(label="red", segments=20, samples=400, fill="mean")
    *news, tried = explain(client, encoded(pixels), asked)
    assert all(isinstance(each, Progress) for each in news)
    assert isinstance(tried, Tried)
    assert tried.one.label == "red"
    assert tried.found.num_samples == 400
    shown = {name: np.asarray(Image.open(io.BytesIO(f))) for name, f in tried.images.items()}
    assert {image.shape for image in shown.values()} == {(768, 1024, 3)}
    assert tried.cut.size == (768, 1024)
    # The red half speaks for the label, so that covering it costs more than covering the rest.
    assert tried.without is not None
    assert tried.alone is not None
    assert tried.without < tried.one.probability < tried.alone


def test_one_face_of_several_is_found_decided_and_explained(client: Client) -> None:
    faces = classify(client, encoded(FRAME), Asked(faces=True))[0].faces
    assert [face.prediction.label for face in faces] == ["red", "blue"]
    *_, tried = explain(client, encoded(FRAME), Asked(faces=True, face=1, segments=10, samples=100))
    assert isinstance(tried, Tried)
    assert tried.one.label == "blue"
    assert tried.found.face == faces[1]
    # Of 640x480 pixels, the face and what is around it are shown, larger than they are.
    assert tried.cut.size == (480, 480)
    assert 0.1 < tried.cut.seen.left < 0.2


def test_closing_a_trial_ends_it_at_the_server(
    client: Client, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, num_predicted = Bundle.predict, []
    has_begun = threading.Event()

    def slow(self: Bundle, images: np.ndarray) -> Any:
        slow_by(1.0 if has_begun.is_set() else 0.05)  # it ends long before all are predicted
        num_predicted.append(len(images))
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", slow)
    trial = explain(client, encoded(FRAME), Asked(segments=150, samples=4000))
    assert isinstance(next(trial), Progress)
    has_begun.set()
    trial.close()
    until(lambda: server.service.explainer.num_open == 0)
    assert sum(num_predicted) < 3000


@pytest.mark.parametrize(
    ("query", "named"),
    [({"segments": "9"}, "segments"), ({"samples": "4001"}, "samples"), ({"fill": "x"}, "fill"),
     ({"face": "-1"}, "face"), ({"colour": "red"}, "colour")],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_by_name(query: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Asked.read(query)
    assert refused.value.field == named


def test_an_unknown_model_and_a_file_that_is_no_image_are_refused(client: Client) -> None:
    with pytest.raises(NotFoundError):
        classify(client, encoded(FRAME), Asked(model="nobody"))
    with pytest.raises(InvalidRequestError):
        next(explain(client, b"no image", Asked()))
