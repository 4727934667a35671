"""Every face is found before an image is written, however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.detectors import GREEN, RED, frame_of, save_detector

from limelens.serve.client.in_process import LocalClient, local_client
from limelens.serve.errors import LimelensError
from limelens.serve.tools.faces import face_blurrer
from limelens.serve.tools.faces.face_blurrer import FaceBlurrer

CROWD = [(left, top, 40, RED) for top in range(0, 480, 80) for left in range(0, 640, 80)]
"""48 faces: more than a detector gives, and far more than one answer names."""


@pytest.fixture
def client(one_model: Path, tmp_path: Path) -> Iterator[LocalClient]:
    detector = save_detector(tmp_path / "detector")
    with local_client(one_model / "colours" / "1", "cpu", str(detector)) as found:
        yield found


def test_more_faces_than_one_answer_names_are_all_blurred(client: LocalClient) -> None:
    frame = frame_of(CROWD)
    blurrer = FaceBlurrer(client)
    places = {(box.left * 640, box.top * 480) for box in blurrer.find(frame)}
    assert {(round(x), round(y)) for x, y in places} == {(x, y) for x, y, _, _ in CROWD}
    blurred = blurrer.blur(frame)
    for left, top, side, _ in CROWD:
        corner = blurred[top + side - 1, left + side - 1]
        assert not np.array_equal(corner, RED)


def test_an_image_with_too_many_faces_is_refused(
    client: LocalClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_blurrer, "_MAX_ROUNDS", 2)
    with pytest.raises(LimelensError, match="more than 40 faces in one image"):
        FaceBlurrer(client).blur(frame_of(CROWD))


def test_the_face_to_keep_is_known_by_its_place(client: LocalClient) -> None:
    frame = frame_of([(160, 160, 160, GREEN), (480, 160, 160, RED)])
    frame[200:204, 160:320] = 0  # detail that blurring removes
    frame[200:204, 480:640] = 0
    (prediction,) = client.classify(frame, faces=True)
    kept = next(one for one in prediction.faces if one.prediction.label == "green")
    blurred = FaceBlurrer(client).blur(frame, kept)
    assert np.array_equal(blurred[160:320, 160:300], frame[160:320, 160:300])
    assert not np.any(np.all(blurred[200:204, 500:620] == 0, axis=-1))
