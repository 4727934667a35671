"""Explanation settings chosen on images, and written into a bundle and its card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limelens.explain.faithfulness import order_areas
from limelens.explain.segmentation.segments import known
from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.bundle.explain_defaults import ExplainDefaults
from limelens.train import export
from limelens.train.exporting import export as exporting
from limelens.train.exporting.explain_settings import TuningError, choose, tune
from limelens.train.exporting.settings_in_bundle import in_turn, spread_over, write_settings

pytest.importorskip("skimage")

BLACK = ExplainDefaults(hide=(0, 0, 0), segmentation="grid", num_segments=9)
MEAN = ExplainDefaults(segmentation="grid", num_segments=9)


@pytest.fixture
def colours(one_model: Path) -> Bundle:
    return load_bundle(one_model / "colours" / "1", "cpu")


@pytest.fixture(scope="module")
def corners(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """Grey images with a plain red or green ninth at some place."""
    folder = tmp_path_factory.mktemp("corners")
    for number in range(6):
        pixels = np.full((48, 48, 3), 110, np.uint8)
        top, left = 16 * (number % 3), 16 * (number // 3)
        pixels[top : top + 16, left : left + 16] = ((255, 0, 0), (0, 255, 0))[number % 2]
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def test_the_right_order_has_the_better_areas() -> None:
    image = np.full((30, 30, 3), 90, np.uint8)
    image[:10, :10] = 250
    others = np.full((2, 30, 30, 3), 20, np.uint8)
    segments = np.arange(30)[:, np.newaxis] // 10 * 3 + np.arange(30) // 10
    cut = known(segments.astype(np.int32), np.arange(9, dtype=np.int32))

    def whiteness(images: np.ndarray) -> np.ndarray:
        white = (images > 240).all(axis=3).mean(axis=(1, 2)) * 9
        return np.stack([1 - white, white], axis=1).astype(np.float32)

    orders = np.stack([np.arange(9), np.arange(9)[::-1]])
    right, wrong = order_areas(image, cut, orders, whiteness, 1, others, num_points=8)
    # Hidden first, the white ninth is gone after a ninth of the pixels.
    assert right == pytest.approx([1 / 18, 17 / 18])
    assert wrong == pytest.approx([17 / 18, 1 / 18])


def test_a_fill_that_the_model_follows_is_chosen(colours: Bundle, corners: Sequence[Path]) -> None:
    steps: list[tuple[int, int]] = []
    found = tune(
        colours,
        corners,
        num_samples=60,
        candidates=(MEAN, BLACK),
        notify=lambda done, count: steps.append((done, count)),
    )
    assert steps == [(done, 6) for done in range(1, 7)]
    # A plain segment in its mean colour is not hidden.
    by_mean, by_black = found.measured
    assert by_mean.little[0] > by_black.little[0] == 0
    assert by_black.gain[0] > by_mean.gain[0] + 2 * by_black.gain[1]
    assert found.chosen.names == BLACK.names
    assert found.place == 1
    why = json.loads(json.dumps(found.chosen.to_json()))["why"]
    assert why["images"] == 6
    assert [one["settings"].get("hide") for one in why["candidates"]] == [None, [0, 0, 0]]
    again = tune(colours, corners, num_samples=60, candidates=(MEAN, BLACK))
    assert [one.gain for one in again.measured] == [one.gain for one in found.measured]


def test_among_equals_the_more_telling_is_chosen_then_the_better_fit() -> None:
    gains = np.array([[0.30, 0.31, 0.1], [0.20, 0.18, 0.1], [0.40, 0.42, 0.1]])
    same = np.zeros(3)
    assert choose(gains, same, np.array([0.5, 0.2, 0.9])) == 0
    assert choose(gains, same, np.array([0.2, 0.5, 0.9])) == 1
    # Where hiding changes nothing, the fit is best of all.
    assert choose(gains, np.array([1.0, 0.1, 0.0]), np.array([0.9, 0.2, 0.9])) == 1


def test_too_few_images_or_too_little_time_choose_nothing(
    colours: Bundle, corners: Sequence[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(TuningError, match="3 images can be read; expected at least 5"):
        tune(colours, [broken, *corners[:3]], num_samples=20)
    with pytest.raises(TuningError, match="seconds on this machine; 0 are allowed"):
        tune(colours, corners, max_s=1e-9)


def test_images_are_taken_from_each_label_in_turn(divided: Path) -> None:
    found = spread_over(divided, 6, seed=0)
    assert {path.parent.parent.name for path in found} == {"validation"}
    assert len({path.parent.name for path in found[:2]}) == 2
    assert spread_over(divided, 6, seed=0) == found
    assert len(spread_over(divided / "train" / "red", 100, seed=0)) == 24
    uneven = [(Path(str(number)), number == 0) for number in range(9)]
    assert Path("0") in in_turn(uneven, 2, seed=0)


def test_settings_are_written_into_a_bundle_and_its_card(one_model: Path, tmp_path: Path) -> None:
    source = one_model / "colours" / "1" / "model.onnx"
    path = tmp_path / "model.onnx"
    card = tmp_path / "README.md"
    card.write_text("# colours\n\nText.\n")
    before = load_bundle(source, "cpu")
    write_settings(source, ExplainDefaults(hide="blur"), path)
    after = load_bundle(path, "cpu")
    assert after.metadata.explain == ExplainDefaults(hide="blur")
    assert after.digest == before.digest
    assert (
        "## How it is explained\n\nUnless a caller says otherwise: hide blur." in card.read_text()
    )
    write_settings(path, ExplainDefaults(hide="shuffle"), path)
    text = card.read_text()
    assert text.startswith("# colours\n\nText.\n\n")
    assert text.count("## How it is explained") == 1
    assert "hide shuffle" in text


def test_an_export_chooses_settings_by_itself(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "NUM_TUNING_IMAGES", 5)
    monkeypatch.setattr(exporting, "NUM_TUNING_SAMPLES", 20)
    told: list[tuple[int, int]] = []
    report = export(
        trained_run,
        "colours",
        models=tmp_path,
        explain="auto",
        notify=lambda done, count: told.append((done, count)),
    )
    assert told == [(done, 5) for done in range(6)]
    path = Path(report["path"])
    own = load_bundle(path, "cpu").metadata.explain
    assert own is not None
    assert report["explain"] == own.to_json()
    assert report["explain_remark"] == ""
    assert own.why["images"] == 5
    card = path.with_name("README.md").read_text()
    assert f"Unless a caller says otherwise: {own.describe()}." in card
    assert "| settings | deletion | insertion | R² | stability | little |" in card


def test_an_export_without_time_to_choose_says_so(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "TUNING_S", 1e-9)
    report = export(trained_run, "colours", models=tmp_path, explain="auto")
    assert report["explain"] is None
    assert "are allowed" in report["explain_remark"]
    given: Any = export(trained_run, "colours", models=tmp_path, explain=BLACK)
    assert given["explain"] == {**BLACK.to_json(), "hide": [0, 0, 0]}
