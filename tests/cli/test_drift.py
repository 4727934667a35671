"""`limelens drift`, by a file and by a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]


def paint(folder: Path, brightness: float, seed: int, count: int = 30) -> Path:
    """Reddish images; dark ones lie elsewhere, and colours 1 is less sure of them."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers((200, 40, 40), (256, 100, 100), (count, 3))
    for row, colour in enumerate(colours * brightness + (0, 40, 0) * np.array(1 - brightness)):
        Image.new("RGB", (9, 8), tuple(colour.astype(int).tolist())).save(folder / f"{row}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    paint(folder / "reference", 1, 1)
    paint(folder / "same", 1, 2)
    paint(folder / "dark", 0.3, 3)
    return folder


@pytest.fixture
def index(limelens: Run, one_model: Path, data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "colours.index"
    model = one_model / "colours" / "1"
    result = limelens("index", data / "reference", "--model", model, "--out", path)
    assert result.exit_code == 0, result.stderr
    return path


def test_dark_images_are_drift_and_others_are_not(
    limelens: Run, asked: tuple[str, str], index: Path, data: Path
) -> None:
    result = limelens("drift", index, data / "dark", *asked, "--json")
    assert result.exit_code == 0, result.stderr
    report = result.json
    assert report["drift"] is True
    assert (report["num_images"], report["num_reference"]) == (30, 30)
    assert [one["of"] for one in report["tests"]] == ["distance", "confidence"]
    assert all(one["ks"] > 0.5 and one["p_value"] < 0.01 for one in report["tests"])
    assert len(report["unusual"]) == 5
    assert sum(one["reference_share"] for one in report["mix"]) == pytest.approx(1)
    assert sum(one["share"] for one in report["mix"]) == pytest.approx(1)
    assert report["unusual"][0]["path"].startswith(str(data / "dark"))
    assert limelens("drift", index, data / "dark", *asked, "--fail-on-drift").exit_code == 1

    result = limelens("drift", index, data / "same", *asked, "--fail-on-drift", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["drift"] is False


def test_a_person_reads_the_verdict_first(
    limelens: Run, one_model: Path, index: Path, data: Path
) -> None:
    model = one_model / "colours" / "1"
    broken = data / "dark" / "broken.jpg"
    broken.write_text("<!doctype html><html></html>")
    try:
        result = limelens("drift", index, data / "dark", "--model", model)
    finally:
        broken.unlink()
    assert result.stdout.startswith("Drift: these 30 images ")
    assert "p < 0.001" in result.stdout.splitlines()[0]
    assert "broken.jpg" in result.stderr
    result = limelens("drift", index, data / "same", "--model", model)
    assert "predicted labels" in result.stdout
    assert result.stdout.startswith("No drift in these 30 images")


def test_what_cannot_be_compared_is_refused(
    limelens: Run, one_model: Path, models: Path, index: Path, data: Path
) -> None:
    model = one_model / "colours" / "1"
    one = data / "same" / "0.png"
    result = limelens("drift", index, one, "--model", model)
    assert result.exit_code == 1
    assert "1 image; a test for drift needs at least 20" in result.stderr
    result = limelens("drift", index, data / "same", "--model", models / "colours" / "2")
    assert result.exit_code == 1
    assert "use the model of the index" in result.stderr
