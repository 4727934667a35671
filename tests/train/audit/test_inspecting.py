from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limelens.serve.bundle import Task
from limelens.train.audit.cropped_copies import find_crops
from limelens.train.audit.inspection import PLAIN, inspect
from limelens.train.audit.label_errors import find_label_errors
from limelens.train.audit.shortcuts import find_shortcuts
from limelens.train.data.examples import DataError
from limelens.train.report.page import write_inspection


@pytest.fixture
def spoilt(divided: Path, tmp_path: Path) -> Path:
    """Good data with all kinds of defects added."""
    data = tmp_path / "data"
    shutil.copytree(divided, data)
    red, green = data / "train" / "red", data / "train" / "green"
    shutil.copy(data / "test" / "red" / "000.png", green / "wrong.png")
    shutil.copy(green / "001.png", data / "validation" / "green" / "again.png")
    with Image.open(green / "002.png") as image:
        image.save(green / "002-again.bmp")
        image.point(lambda value: value * 0.97).save(data / "test" / "green" / "darker.png")
    (red / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (red / "notes.txt").write_text("not an image")
    return data


def test_all_defects_are_found(spoilt: Path) -> None:
    found = inspect(spoilt)
    assert found.num_images == {"train": 50, "val": 17, "test": 13}
    assert found.counts["train"] == {"green": 26, "red": 24}
    assert (found.commonest, found.rarest) == ("green", "red")
    assert found.num_smaller == 80
    assert [one.path.name for one in found.unreadable] == ["broken.jpg"]
    assert "damaged" in found.unreadable[0].reason
    assert [path.name for path in found.unused] == ["notes.txt"]

    kinds = {pair.second.path.name: pair.kind for pair in found.duplicates}
    assert kinds["again.png"] == "bytes"
    # Split by split: the copy of the test image is the first of the two.
    contradicting = [pair for pair in found.duplicates if pair.differ_in_label]
    assert [pair.first.path.name for pair in contradicting] == ["wrong.png"]
    assert found.duplicates[0] is contradicting[0]
    assert {kinds.get("002.png"), kinds.get("002-again.bmp")} == {"pixels", None}
    (darker,) = [pair for pair in found.duplicates if pair.second.path.name == "darker.png"]
    assert darker.kind == "near"
    assert darker.cross_splits
    assert len(found.duplicates) == 4


def test_a_crop_is_paired_with_its_image_and_only_with_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def photo(red: int) -> Image.Image:
        fields = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        fields[..., 0] = red
        return Image.fromarray(fields).resize((160, 120), Image.Resampling.BICUBIC)

    for label, red in (("a", 0), ("b", 255)):
        (tmp_path / label).mkdir()
        for index in range(8):
            photo(red).save(tmp_path / label / f"{index}.png")
    with Image.open(tmp_path / "a" / "3.png") as image:
        image.crop((10, 0, 140, 100)).resize((65, 50)).save(tmp_path / "b" / "cut.jpg", quality=70)
    # The original may come after what was cut out of it.
    with Image.open(tmp_path / "b" / "5.png") as image:
        image.crop((0, 18, 160, 120)).save(tmp_path / "a" / "cut.jpg", quality=70)
    found = inspect(tmp_path)
    pairs = [
        (pair.kind, pair.first.path.relative_to(tmp_path), pair.second.path.relative_to(tmp_path))
        for pair in found.duplicates
    ]
    assert pairs == [
        ("cropped", Path("a/cut.jpg"), Path("b/5.png")),
        ("cropped", Path("a/3.png"), Path("b/cut.jpg")),
    ]
    write_inspection(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("one is cut out of the other") == 2


def test_bottles_of_one_shape_are_not_cut_out_of_one_another() -> None:
    rng = np.random.default_rng(1)
    bottles = np.full((60, 48, 48, 3), 255, dtype=np.uint8)
    for bottle in bottles:
        top, left = rng.integers(0, 5, 2)
        bottle[top + 2 : 44, left + 14 : left + 30] = (30, 60, 30)
        bottle[24:38, left + 14 : left + 30] = rng.integers(0, 256, (14, 16, 3))
    assert find_crops(bottles) == []


def test_a_wrong_label_comes_first_with_and_without_a_model(
    spoilt: Path, trained_run: Path
) -> None:
    for run in (None, trained_run):
        found = inspect(spoilt, run_or_model=run)
        assert found.suspects[0].place.path.name == "wrong.png"
        assert found.suspects[0].place.labels == ("green",)
        assert found.suspects[0].suggested == ("red",)
        assert found.checked_by == (PLAIN if run is None else trained_run.name)
        assert found.judge_accuracy is not None
        assert found.judge_accuracy > 0.9
    assert found.input_size == (32, 32)
    assert found.num_smaller == 0


def test_the_same_data_gives_the_same_json(spoilt: Path) -> None:
    once, twice = (json.dumps(inspect(spoilt).to_json()) for _ in range(2))
    assert once == twice


def test_the_page_of_an_inspection_shows_what_was_found(spoilt: Path, tmp_path: Path) -> None:
    write_inspection(inspect(spoilt), tmp_path / "data.html")
    page = (tmp_path / "data.html").read_text(encoding="utf-8")
    for word in ("wrong.png", "with different labels: 1", "broken.jpg", "notes.txt", "damaged"):
        assert word in page
    assert "http" not in page


def test_labels_with_too_few_images_are_left_unchecked(tmp_path: Path) -> None:
    for label, count in (("few", 3), ("none", 2)):
        (tmp_path / label).mkdir()
        for index in range(count):
            pixels = np.random.default_rng(index).integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{index}.png")
    found = inspect(tmp_path)
    assert found.not_checked == ("few", "none")
    assert found.suspects == ()
    assert found.judge_accuracy is None
    assert found.num_images == {"all": 5}


def test_data_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "one.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no image that can be read; the first is .*one\.jpg"):
        inspect(tmp_path)


def test_a_size_that_follows_the_label_is_called_a_shortcut() -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], 100)
    features = {"aspect": targets + rng.normal(0, 0.1, 200), "width": rng.normal(0, 1, 200)}
    aspect, width = find_shortcuts(features, targets, ("a", "b"))
    assert (aspect.feature, aspect.telling) == ("aspect", True)
    assert aspect.accuracy > 0.95
    assert aspect.majority == 0.5
    assert not width.telling

    table = np.stack([rng.integers(0, 2, 200), targets], axis=1)
    best = find_shortcuts(features, table, ("chance", "b"))[0]
    assert (best.feature, best.label) == ("aspect", "b")


def test_a_missing_label_is_suggested() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (200, 3))
    vectors = truth + rng.normal(0, 0.15, (200, 3))
    given = np.pad(truth, ((0, 0), (0, 1)))
    index = int(np.flatnonzero(truth[:, 1])[0])
    given[index, 1] = 0
    found = find_label_errors(vectors, given, 4)
    assert found.errors[0].index == index
    assert found.errors[0].suggested == tuple(np.flatnonzero(truth[index]).tolist())
    assert found.left_out == (3,)


def test_a_table_of_several_labels_is_inspected(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["id,labels"]
    for index in range(40):
        labels = [name for name, bit in (("dark", 1), ("wide", 2)) if index & bit]
        side = (30, 60) if "wide" in labels else (30, 30)
        pixels = rng.integers(0, 60, (*side, 3)) + (0 if "dark" in labels else 150)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{'|'.join(labels)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    found = inspect(tmp_path)
    assert found.task is Task.MULTILABEL
    assert {(one.feature, one.label) for one in found.shortcuts if one.telling} >= {
        ("aspect", "wide"), ("width", "wide"),
    }  # fmt: skip
    write_inspection(found, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 5000


def test_the_wine_that_is_known_to_be_mislabelled_ranks_near_the_top() -> None:
    folder = os.environ.get("LIMELENS_DATA")
    if not folder:
        pytest.skip("LIMELENS_DATA is not set; it names the folder that holds wine")
    found = inspect(Path(folder) / "wine")
    assert "1291963l.jpg" in [suspect.place.path.name for suspect in found.suspects[:3]]
