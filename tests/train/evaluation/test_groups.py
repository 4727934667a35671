"""Accuracy by group: sizes of images and a table's groups, with intervals, small ones marked."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limelens.train import DataError, evaluate
from limelens.train.data.groups_table import GROUPS_FILE, read_groupings, write_groups
from limelens.train.evaluation.groups import (
    Appearance,
    appearance,
    group_metrics,
    measured_groupings,
)


def test_images_are_grouped_by_size_brightness_and_shape() -> None:
    looks = [Appearance(63, 200, 20.0), Appearance(64, 64, 80.0), Appearance(900, 600, 250.0)]
    assert measured_groupings(looks) == {
        "size": ["under 64 px", "64 to 127 px", "512 px or more"],
        "brightness": ["dark", "medium", "bright"],
        "shape": ["wide", "about square", "tall"],
    }


@pytest.mark.parametrize("shape", [(3, 5), (700, 300)])
def test_brightness_is_the_mean_luma(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), (200, 100, 50), dtype=np.uint8)
    found = appearance(pixels)
    assert (found.height, found.width) == shape
    assert found.brightness == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_each_group_has_its_accuracy_and_wilsons_interval() -> None:
    groups = ["a"] * 40 + ["b"] * 60 + ["c"] * 3 + [""]
    correct = np.array([True] * 20 + [False] * 20 + [True] * 60 + [False] * 3 + [False])
    decided = correct.copy()
    a, b, c = group_metrics({"by": groups}, correct, decided)["by"]
    assert (a["group"], a["num_images"], a["accuracy"]) == ("a", 40, 0.5)
    # p = 1/2: the interval is 1/2 +- (z / 2) / sqrt(n + z^2), Wilson 1927.
    half = 1.959964 / 2 / np.sqrt(40 + 1.959964**2)
    assert (a["low"], a["high"]) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert (a["worse"], b["worse"]) == (True, False)
    assert (a["coverage"], a["decided_accuracy"]) == (0.5, 1.0)
    assert c["too_small"]
    assert not c["worse"]
    assert (c["coverage"], c["decided_accuracy"]) == (0.0, None)


def test_a_grouping_of_one_group_or_of_very_many_is_left_out() -> None:
    correct = np.ones(40, dtype=np.bool_)
    names = [str(number) for number in range(40)]
    groupings = {"one": ["a"] * 39 + [""], "ids": names, "two": ["a", "b"] * 20}
    assert [*group_metrics(groupings, correct)] == ["two"]


def test_a_table_names_groups_by_path_and_may_leave_some_out(tmp_path: Path) -> None:
    rows = {"val/a/1.png": {"camera": "x", "site": "y"}, "val/b/2.png": {"camera": "z"}}
    write_groups(tmp_path, rows)
    paths = [tmp_path / name for name in ("val/b/2.png", "val/a/1.png", "val/a/3.png")]
    assert read_groupings(tmp_path, paths) == {"camera": ["z", "x", ""], "site": ["", "y", ""]}
    assert read_groupings(tmp_path / "labels.csv", paths)["site"] == ["", "y", ""]
    (tmp_path / GROUPS_FILE).write_text("photo,camera\n1.png,x\n")
    with pytest.raises(DataError, match="expected one of images"):
        read_groupings(tmp_path, paths)
    (tmp_path / GROUPS_FILE).unlink()
    assert read_groupings(tmp_path, paths) == {}


def test_an_evaluation_measures_groups(one_model: Path, tmp_path: Path) -> None:
    names: dict[str, dict[str, str]] = {}
    for label, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / label).mkdir()
        for number, side in enumerate((40, 90)):
            Image.new("RGB", (side, side), colour).save(tmp_path / label / f"{number}.png")
            names[f"{label}/{number}.png"] = {"camera": f"number {number}"}
    write_groups(tmp_path, names)
    groups = evaluate(one_model / "colours" / "1", tmp_path)["groups"]
    assert groups["measure"] == "accuracy"
    assert {name: [row["num_images"] for row in rows] for name, rows in groups["by"].items()} == {
        "size": [2, 2], "camera": [2, 2],
    }  # fmt: skip
    assert [row["group"] for row in groups["by"]["size"]] == ["under 64 px", "64 to 127 px"]
