"""Synthetic sets: repeatable, laid out for training, alike in everything but the mask."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limelens.train.data.groups_table import GROUPS_FILE
from limelens.train.synthetic import LABELS, MASK_STYLES, write_dataset
from limelens.train.synthetic.drawn_groups import colour_name
from limelens.train.synthetic.portraits import Label, render_sample


@pytest.mark.parametrize("label", LABELS)
def test_a_sample_is_repeatable(label: Label) -> None:
    first, groups = render_sample(np.random.default_rng(9), label, (60, 80))
    again, same = render_sample(np.random.default_rng(9), label, (60, 80))
    assert groups == same
    assert first.shape == (60, 80, 3)
    assert np.array_equal(first, again)


def test_too_small_an_image_and_an_unknown_label_are_refused() -> None:
    with pytest.raises(ValueError, match="8x8"):
        render_sample(np.random.default_rng(0), "with_mask", 8)
    with pytest.raises(ValueError, match="'mask'"):
        render_sample(np.random.default_rng(0), "mask")  # type: ignore[arg-type]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))


def test_several_processes_write_the_same_files(tmp_path: Path) -> None:
    for num_workers in (1, 2):
        write_dataset(tmp_path / str(num_workers), 10, 5, size=32, num_workers=num_workers)
    assert files(tmp_path / "1") == files(tmp_path / "2")
    for name in files(tmp_path / "1"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert (tmp_path / "1" / GROUPS_FILE).read_bytes() == (
        tmp_path / "2" / GROUPS_FILE
    ).read_bytes()


def test_a_table_says_what_was_drawn_in_each_image(tmp_path: Path) -> None:
    write_dataset(tmp_path, 6, seed=2, size=24)
    with (tmp_path / GROUPS_FILE).open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == files(tmp_path)
    for image, row in rows.items():
        masked = "/with_mask/" in image
        assert all(bool(row[name]) == masked for name in ("mask", "mask_colour", "mask_pattern"))
        assert bool(row["before_mouth"]) != masked
        assert row["skin"] in ("light", "medium", "dark")
        assert row["pose"]
        assert row["lighting"]


@pytest.mark.parametrize(
    ("style", "name"),
    [
        ("surgical-blue", "blue"), ("surgical-white", "white"), ("surgical-green", "green"),
        ("surgical-pink", "pink or purple"), ("surgical-black", "black"), ("cloth-stripes", "red"),
        ("cup-grey", "grey"), ("cloth-camouflage", "green"),
    ],
)  # fmt: skip
def test_colours_of_masks_have_names(style: str, name: str) -> None:
    assert colour_name(MASK_STYLES[style].colour) == name


def test_a_dataset_has_its_splits_and_labels(tmp_path: Path) -> None:
    counts = write_dataset(tmp_path, 12, seed=3, size=48)
    assert counts == {"train": 10, "val": 1, "test": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "groups.csv", "test", "train", "val"
    ]  # fmt: skip
    for split, count in counts.items():
        for label in LABELS:
            names = sorted(path.name for path in (tmp_path / split / label).iterdir())
            assert names == [f"{k:04d}.jpg" for k in range(count)]
    with Image.open(tmp_path / "train" / "with_mask" / "0000.jpg") as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert max(image.size) == 48


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_dataset(tmp_path / name, 3, seed=seed, size=32)
    first, again, other = (
        [(tmp_path / name / path).read_bytes() for path in files(tmp_path / "a")] for name in "abc"
    )
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert first == again
    assert first != other
    assert len(set(first)) == len(first)


def test_a_larger_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    write_dataset(tmp_path / "small", 3, seed=1, size=32)
    write_dataset(tmp_path / "large", 6, seed=1, size=32)
    for path in files(tmp_path / "small"):
        assert (tmp_path / "small" / path).read_bytes() == (tmp_path / "large" / path).read_bytes()


def test_own_splits_are_kept_and_wrong_ones_refused(tmp_path: Path) -> None:
    counts = write_dataset(tmp_path, 4, seed=0, size=24, splits={"train": 0.5, "val": 0.5})
    assert counts == {"train": 2, "val": 2}
    with pytest.raises(ValueError, match="sum to 1"):
        write_dataset(tmp_path, 4, seed=0, splits={"train": 0.5})
    with pytest.raises(ValueError, match="need one each"):
        write_dataset(tmp_path, 2, seed=0)


def test_labels_share_aspect_ratio_and_brightness(tmp_path: Path) -> None:
    write_dataset(tmp_path, 150, seed=0, size=32, splits={"train": 1.0})
    tall, bright = [], []
    for label in LABELS:
        shapes, means = [], []
        for path in (tmp_path / "train" / label).iterdir():
            with Image.open(path) as image:
                shapes.append(image.height > image.width)
                means.append(np.asarray(image)[:8].mean())
        tall.append(float(np.mean(shapes)))
        bright.append(float(np.mean(means)))
    # Six standard errors of a fair coin over 150 images; the upper rows hold no mask.
    assert abs(tall[0] - tall[1]) < 0.35
    assert abs(bright[0] - bright[1]) < 25


def test_drawing_needs_numpy_and_pillow_alone() -> None:
    heavy = {"torch", "torchvision", "scipy", "sklearn", "skimage", "matplotlib", "onnx", "grpc"}
    code = (
        "import sys; from limelens.train.synthetic import draw_mask, write_dataset; "
        f"loaded = {heavy!r} & {{*sys.modules}}; sys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_close_ups_are_large_faces_with_nothing_but_masks(tmp_path: Path) -> None:
    write_dataset(tmp_path, 20, seed=1, size=24, close_up=True)
    with (tmp_path / "groups.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert {row["before_mouth"] for row in rows} == {"", "nothing"}
    assert {row["face_size"] for row in rows} <= {"0.2 to 0.3", "0.3 or more"}
