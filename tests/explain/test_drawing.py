"""Masks, overlays, heat maps and the fonts on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.explain import (
    UNSEEN,
    InvalidArgumentError,
    LabelExplanation,
    MissingFontWarning,
    SegmentWeight,
    heat_map,
    image_and_mask,
    overlay,
    side_by_side,
)
from limelens.explain.drawing import fonts
from limelens.explain.drawing.colours import Palette

WEIGHTS = {3: 0.5, 8: -0.25, 1: 0.01}


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.full((90, 120, 3), 128, dtype=np.uint8)


@pytest.fixture
def segments() -> NDArray[np.int64]:
    ids = np.full((90, 120), 1)
    ids[:45, :40] = 3
    ids[:45, 40:80] = 8
    ids[80:] = UNSEEN
    return ids


def test_overlay_is_green_for_and_red_against_and_dims_the_unseen(
    image: NDArray[np.uint8], segments: NDArray[np.int64]
) -> None:
    painted = overlay(image, segments, WEIGHTS, num_features=2)
    in_favour, against = painted[20, 20].astype(int), painted[20, 60].astype(int)
    assert in_favour[1] > in_favour[0] + 60
    assert against[0] > against[1] + 30
    assert painted[60, 60].tolist() == [128, 128, 128]
    assert painted[85, 60].max() < 60


def test_the_blue_orange_palette_distinguishes_signs(
    image: NDArray[np.uint8], segments: NDArray[np.int64]
) -> None:
    painted = overlay(image, segments, WEIGHTS, palette="blue-orange").astype(int)
    assert painted[20, 20, 2] > painted[20, 20, 0] + 60
    assert painted[20, 60, 0] > painted[20, 60, 2] + 30
    with pytest.raises(InvalidArgumentError, match="expected one of green-red, blue-orange"):
        overlay(image, segments, WEIGHTS, palette="viridis")  # type: ignore[arg-type]


def test_heavier_segments_are_tinted_more_and_num_features_limits_them(
    image: NDArray[np.uint8], segments: NDArray[np.int64]
) -> None:
    def tint(weights: dict[int, float], row: int, col: int) -> int:
        changed = overlay(image, segments, weights, num_features=None)[row, col].astype(int)
        return int(np.abs(changed - 128).sum())

    assert tint({3: 1.0, 1: 0.1}, 20, 20) > tint({3: 0.1, 1: 1.0}, 20, 20) > 0
    assert overlay(image, segments, WEIGHTS, num_features=1)[20, 60].tolist() == [128] * 3


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (700, 2), (1500, 2000)])
def test_images_of_any_size_are_drawn(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    segments = (np.arange(size[1]) * 3 // size[1]) + np.zeros(size, dtype=np.int64)
    weights = [SegmentWeight(0, 0.2, 0.1), SegmentWeight(1, -0.1, 0.1)]
    assert overlay(image, segments, weights).shape == (*size, 3)
    drawn = heat_map(image, segments, weights, label_name="a mask")
    assert drawn.dtype == np.uint8
    assert min(drawn.shape[:2]) > 100
    assert side_by_side([("one", image), ("two", drawn)]).shape[1] > drawn.shape[1] / 10


def test_colours_fade_with_the_size_of_the_weight(
    image: NDArray[np.uint8], segments: NDArray[np.int64]
) -> None:
    def tint(weight: float) -> float:
        drawn = overlay(image, segments, {3: weight}, borders=False)[20, 20].astype(float)
        return float(np.abs(drawn - 128).sum())

    assert tint(0.006) < 0.05 * tint(0.2)
    assert tint(0.1) == pytest.approx(0.5 * tint(0.2), abs=3)
    assert tint(0.9) == tint(0.2)  # the largest has full colour
    beside = overlay(image, segments, {3: 0.2, 1: 0.8}, borders=False)[20, 20].astype(float)
    assert np.abs(beside - 128).sum() == pytest.approx(0.25 * tint(0.2), abs=3)
    faint = overlay(image, segments, {3: 0.004})[:78].astype(int)
    assert np.abs(faint - 128).max() < 12  # borders fade too


@pytest.mark.parametrize("palette", ["green-red", "blue-orange"])
def test_the_scale_is_drawn_where_it_hides_least(palette: Palette) -> None:
    image = np.full((240, 320), 128, dtype=np.uint8)
    halves = np.where(np.arange(320) < 160, 0, 1) + np.zeros((240, 1), dtype=np.int64)
    for weighted, column in ((0, 300), (1, 8)):
        with_legend = overlay(image, halves, {weighted: 0.2}, palette=palette)
        without = overlay(image, halves, {weighted: 0.2}, palette=palette, legend=False)
        changed = (with_legend != without).any(axis=2)
        rows, columns = np.nonzero(changed)
        assert changed.mean() < 0.05
        assert rows.min() > 180
        assert abs(columns - column).min() < 5
    assert np.array_equal(
        overlay(image[:150], halves[:150], {0: 0.2}),
        overlay(image[:150], halves[:150], {0: 0.2}, legend=False),
    )


def test_segment_ids_of_any_range_are_painted(image: NDArray[np.uint8]) -> None:
    segments = np.full((90, 120), -(2**31))
    segments[:, 60:] = 2**31 - 1
    painted = overlay(image, segments, {2**31 - 1: 1.0})
    assert painted[10, 10].tolist() == [128] * 3
    assert painted[10, 100, 1] > painted[10, 100, 0]


def test_a_heat_map_names_the_label_and_its_scores(
    image: NDArray[np.uint8], segments: NDArray[np.int64]
) -> None:
    one = LabelExplanation(
        label=4,
        against=None,
        probability=0.875,
        intercept=0.1,
        local_prediction=0.8,
        score=0.9,
        stability=0.8,
        top_k=1,
        ties=(),
        weights=tuple(SegmentWeight(i, w, 0.1) for i, w in WEIGHTS.items()),
    )
    described = heat_map(image, segments, one)
    bare = heat_map(image, segments, WEIGHTS)
    assert described.shape[0] > bare.shape[0]
    assert not np.array_equal(heat_map(image, segments, replace(one, baseline=0.87)), described)
    assert described.shape[1] == bare.shape[1]


def test_segments_of_another_size_are_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(9, 9\); the image is \(90, 120\)"):
        overlay(image, np.zeros((9, 9), int), WEIGHTS)


def test_both_flags_of_a_mask_contradict_each_other(
    image: NDArray[np.uint8], segments: NDArray[np.int64]
) -> None:
    with pytest.raises(ValueError, match="set at most one"):
        image_and_mask(image, segments, WEIGHTS, negative_only=True)


def test_no_images_side_by_side_is_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match="images is empty"):
        side_by_side([])


def test_latin_text_needs_no_font_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "folders", lambda: ())
    assert fonts.font_for("with mask: 99.5% - déjà", 20)[1] == "with mask: 99.5% - deja"


def test_characters_that_no_font_has_are_reported(
    monkeypatch: pytest.MonkeyPatch, image: NDArray[np.uint8], segments: NDArray[np.int64]
) -> None:
    monkeypatch.setattr(fonts, "folders", lambda: (Path("/nowhere"),))
    with pytest.warns(MissingFontWarning, match="fonts-noto-cjk"):
        assert fonts.font_for("mask 口罩 マスク 마스크", 20)[1] == "mask [CJK] [KATAKANA] [HANGUL]"
    with pytest.warns(MissingFontWarning, match="口罩"):
        heat_map(image, segments, WEIGHTS, label_name="口罩")


@pytest.mark.parametrize("text", ["口罩", "マスクなし", "마스크"])
def test_chinese_japanese_and_korean_render_where_a_font_is_installed(text: str) -> None:
    if not any("cjk" in path.name.lower() for path in fonts.font_files(fonts.folders())):
        pytest.skip("no CJK font on this system")
    assert fonts.font_for(text, 20)[1] == text


def test_other_scripts_render_from_a_font_of_the_system() -> None:
    if not any(path.name == "DejaVuSans.ttf" for path in fonts.font_files(fonts.folders())):
        pytest.skip("no DejaVu font on this system")
    font, text = fonts.font_for("маска ✓", 20)
    assert text == "маска ✓"
    assert font.getbbox(text)[2] > 40
