from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels, noisy dark and light, with splits; one image is in both."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for label, base in (("dark", 60), ("light", 190)):
            (folder / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = (rng.normal(0, 40, (10, 10, 3)) + base).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).resize((40, 40), 0).save(
                    folder / split / label / f"{index}.png"
                )
    twin = (folder / "train" / "dark" / "0.png").read_bytes()
    (folder / "train" / "light" / "twin.png").write_bytes(twin)
    return folder


def test_inspect_prints_one_json_document(limelens: Run, images: Path) -> None:
    result = limelens("inspect", images, "--json")
    assert result.exit_code == 0, result.stderr
    found = result.json
    assert {
        "data", "task", "labels", "num_pictures", "counts", "balance", "sizes", "shortcuts",
        "duplicates", "unreadable", "unused", "suspicious",
    } == {*found}  # fmt: skip
    assert found["num_pictures"] == {"train": 25, "val": 12}
    (pair,) = found["duplicates"]
    assert (pair["kind"], pair["differ_in_label"]) == ("bytes", True)
    assert found["suspicious"]["pictures"][0]["path"].endswith("twin.png")


def test_inspect_prints_a_summary_and_writes_a_page(
    limelens: Run, images: Path, tmp_path: Path
) -> None:
    result = limelens("inspect", images, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.stderr
    assert "1 with different labels" in result.stdout
    assert "train/light/twin.png" in result.stdout
    assert "twin.png" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_inspect_names_the_copies_that_spoil_metrics(
    limelens: Run, images: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(images, tmp_path / "images")
    (data / "train" / "light" / "twin.png").unlink()
    shutil.copy(data / "train" / "light" / "3.png", data / "val" / "light" / "leaked.png")
    shutil.copy(data / "train" / "light" / "4.png", data / "train" / "light" / "again.png")
    shown = limelens("inspect", data).stdout
    assert "2 exact" in shown
    assert "train/light/3.png (light) and val/light/leaked.png (light)" in shown
    assert "again.png (light)" not in shown
    assert "1 more pair: --out HTML" in shown


def test_inspect_prints_what_was_found_and_names_the_rest(
    limelens: Run, images: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(images, tmp_path / "images")
    (data / "train" / "light" / "twin.png").unlink()
    *found, absent = limelens("inspect", data).stdout.splitlines()
    assert all(word not in line for line in found for word in (" 0 ", "Duplicates", "look wrong"))
    assert absent.startswith("Looked for and not found: ")
    for words in ("duplicates", "unreadable images", "wrong labels (checked by colours and gradi"):
        assert f" {words}" in absent
    assert "different labels" not in absent

    shutil.copy(data / "train" / "light" / "4.png", data / "train" / "light" / "again.png")
    (data / "train" / "light" / "bad.png").write_bytes(b"no image")
    result = limelens("inspect", data)
    *found, absent = result.stdout.splitlines()
    assert "Duplicates: 1 exact" in found
    assert "cropped duplicates, duplicates across splits, duplicates with different" in absent
    assert "exact" not in absent
    assert "unreadable" not in absent
    assert "bad.png" in result.stderr


def test_evaluate_writes_predictions_and_a_page(
    limelens: Run, images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trained = limelens(
        "train", images, "--out", run, "--arch", "cnn3", "--input-size", 32, "--epochs", 2,
        "--batch-size", 8, "--augment", "none",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.stderr
    table, page = tmp_path / "predictions.csv", tmp_path / "page.html"
    result = limelens("evaluate", run, images, "--predictions", table, "--report", page, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["num_images"] == 12
    with table.open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 12
    assert "Label by label" in page.read_text(encoding="utf-8")
    of_run = limelens("inspect", images, "--run", run, "--json")
    assert of_run.json["suspicious"]["judged_by"] == "run"


def test_inspect_of_nothing_is_one_line(limelens: Run, tmp_path: Path) -> None:
    result = limelens("inspect", tmp_path / "nowhere", "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "is no folder" in result.stderr
