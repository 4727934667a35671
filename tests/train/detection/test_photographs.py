from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from limelens.train.data.examples import DataError
from limelens.train.detection.frames import Boxes, Pixels
from limelens.train.detection.photographs import draw_portrait, find_all, read_sources

RED = (220, 20, 20)


def red_boxes(pixels: Pixels) -> tuple[Boxes, NDArray[np.float32]]:
    """A teacher for which red is a face: surely if it is bright, perhaps if it is dark."""
    values = pixels.astype(int)
    rows, columns = np.nonzero(values[..., 0] > 3 * values[..., 1:].max(axis=2) + 40)
    if not len(rows):
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    score = pixels[rows, columns, 0].mean() / 255
    return np.array([box], np.float32), np.array([score], np.float32)


def write(path: Path, colour: tuple[int, int, int] | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((40, 50, 3), 100, dtype=np.uint8)
    if colour:
        pixels[10:30, 5:20] = colour
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    people, others = tmp_path / "people", tmp_path / "others"
    for split in ("train", "val"):
        for label in ("with_mask", "without_mask"):
            write(people / split / label / "0.png", RED)
            write(people / split / label / "nobody.png", None)
        write(others / split / "walls" / "0.png", None)
        write(others / split / "walls" / "somebody.png", RED)
    return people, others


def test_faces_are_where_the_teacher_sees_them(folders: tuple[Path, Path]) -> None:
    people, others = folders
    sources, digest = read_sources(people, [others], red_boxes, "train", num_drawn=2)
    assert [one.faces.tolist() for one in sources.masked] == [[[5, 10, 20, 30]]]
    assert [one.masked for one in (*sources.masked, *sources.bare)] == [True, False]
    assert [one.masked for one in sources.drawn] == [False, True]
    assert len(digest) == 64


def test_background_with_somebody_is_left_out(folders: tuple[Path, Path]) -> None:
    people, others = folders
    sources, _ = read_sources(people, [others], red_boxes, "val", num_drawn=1)
    assert len(sources.backgrounds) == 1


def test_missing_split_is_named(folders: tuple[Path, Path]) -> None:
    people, others = folders
    with pytest.raises(DataError, match=r"expected test"):
        read_sources(people, [others], red_boxes, "test", num_drawn=1)


def test_unsure_boxes_are_kept_apart() -> None:
    pixels = np.full((40, 50, 3), 10, dtype=np.uint8)
    pixels[10:30, 5:20] = (70, 0, 0)
    faces, unsure = find_all(pixels, red_boxes)
    assert len(faces) == 0
    assert unsure.tolist() == [[5, 10, 20, 30]]


def test_teacher_looks_again_with_a_border() -> None:
    def only_small(pixels: Pixels) -> tuple[Boxes, NDArray[np.float32]]:
        boxes, scores = red_boxes(pixels)
        fills = len(boxes) and boxes[0, 2] - boxes[0, 0] > 0.8 * pixels.shape[1]
        return (boxes[:0], scores[:0]) if fills else (boxes, scores)

    pixels = np.zeros((40, 50, 3), dtype=np.uint8)
    pixels[:, :] = RED
    faces, _ = find_all(pixels, only_small)
    assert faces.tolist() == [[0, 0, 50, 40]]


@pytest.mark.parametrize("masked", [False, True])
def test_drawn_box_holds_a_face(masked: bool) -> None:
    reds = []
    for seed in range(20):
        one = draw_portrait(np.random.default_rng(seed), masked)
        (left, top, right, bottom) = one.faces[0]
        assert 0 <= left < right <= one.pixels.shape[1]
        assert 0 <= top < bottom <= one.pixels.shape[0]
        assert one.masked == masked
        # Skin is redder than most of what is behind people.
        middle, wide = (left + right) / 2, (right - left) / 4
        forehead = one.pixels[round(top) + 3 : round(top + 0.4 * (bottom - top)),
                              round(middle - wide) : round(middle + wide)]  # fmt: skip
        redness = [part[..., 0].mean() - part[..., 2].mean() for part in (forehead, one.pixels)]
        reds.append(redness[0] > redness[1])
    assert np.mean(reds) > 0.8
