"""The detector that comes with limelens, on images that it never saw."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limelens.serve.faces.detector import FaceDetector, load_detector
from limelens.serve.folders import find_images
from limelens.train.detection.__main__ import TEST_SCENERY, finder
from limelens.train.detection.composing import compose
from limelens.train.detection.evaluating import examine
from limelens.train.detection.frames import Sources
from limelens.train.synthetic import random_background

CELL = 160
"""Pixels of a photograph's side in a frame of 640x480."""


@pytest.fixture(scope="module")
def shipped() -> FaceDetector:
    return load_detector("default", "cpu", num_threads=1)


def test_it_finds_drawn_faces(shipped: FaceDetector, drawn: Sources) -> None:
    scenery = replace(TEST_SCENERY, face_px=(48, 200), distorted=False)
    frames = [compose(drawn, scenery, np.random.default_rng((3, n))) for n in range(25)]
    found = examine(finder(shipped), frames)
    threshold = shipped.bundle.metadata.threshold
    assert found.recall(threshold) > 0.9
    assert found.false_per_frame(threshold) < 0.1


def test_it_finds_nobody_where_nobody_is(shipped: FaceDetector) -> None:
    for seed in range(25):
        place = random_background(np.random.default_rng(seed), 480, 640)
        assert shipped.detect(place) == []
    for tone in (0, 128, 255):
        assert shipped.detect(np.full((480, 640, 3), tone, dtype=np.uint8)) == []


def test_it_finds_real_faces(shipped: FaceDetector) -> None:
    folder = os.environ.get("LIMELENS_DATA")
    if folder is None:
        pytest.skip("LIMELENS_DATA is not set; it names the folder that holds facemask")
    paths = find_images(Path(folder) / "facemask" / "test")[::3]
    found = 0
    for start in range(0, len(paths) - 11, 12):
        frame = Image.new("RGB", (640, 480), (120, 124, 128))
        for place, path in enumerate(paths[start : start + 12]):
            photograph = Image.open(path).convert("RGB")
            photograph.thumbnail((CELL - 16, CELL - 16))
            frame.paste(photograph, (place % 4 * CELL + 8, place // 4 * CELL + 8))
        faces = shipped.detect(np.asarray(frame))
        cells = {
            (int((face.left + face.right) / 2 // CELL), int((face.top + face.bottom) / 2 // CELL))
            for face in faces
        }
        found += len(cells)
    assert found / (len(paths) // 12 * 12) > 0.88
