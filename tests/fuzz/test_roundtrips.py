"""Properties for any value: regions, resizing, segments as PNG, decisions."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from fuzz.effort import examples
from limelens.serve.bundle import Task
from limelens.serve.bundle.metadata import CLASSIFYING
from limelens.serve.decisions.decision import Decision, decide
from limelens.serve.errors import InvalidRequestError
from limelens.serve.explaining.explain_image import read_segments
from limelens.serve.explaining.spec import SEGMENTS_LIMIT
from limelens.serve.image import UNSEEN, Region, ResizeMode, ResizeRule, fit

SIDES = st.integers(1, 200)
MODES = st.sampled_from(list(ResizeMode))
PROBABILITIES = st_numpy.arrays(np.float32, 3, elements=st.floats(0, 1, width=32))
THRESHOLDS = st.none() | st.floats(0, 1, width=32)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    left, right = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True)))
    return Region(left, top, right, bottom)


@examples(200)
@given(edges=st.tuples(*[st.floats()] * 4))
def test_a_region_is_possible_or_refused(edges: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = edges
    possible = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    try:
        Region(*edges)
    except InvalidRequestError:
        assert not possible
    else:
        assert possible


@examples(200)
@given(region=regions(), height=SIDES, width=SIDES)
def test_a_region_is_at_least_a_pixel_of_the_image(region: Region, height: int, width: int) -> None:
    left, top, right, bottom = region.box(height, width)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    # Rounded to whole pixels, and no further away than that and the one pixel that it must have.
    assert abs(left - region.left * width) <= 1
    assert abs(bottom - region.bottom * height) <= 1.5


@examples(100)
@given(
    height=SIDES,
    width=SIDES,
    input_height=st.integers(1, 64),
    input_width=st.integers(1, 64),
    mode=MODES,
    region=st.none() | regions(),
)
def test_any_image_fits_any_input(
    height: int, width: int, input_height: int, input_width: int, mode: ResizeMode, region: Region
) -> None:
    colour = (10, 200, 90)
    pixels = np.full((height, width, 3), colour, np.uint8)
    fitted = fit(pixels, ResizeRule(input_height, input_width, mode), region)
    assert fitted.pixels.shape == (input_height, input_width, 3)
    left, top, right, bottom = fitted.target_box
    assert 0 <= left < right <= input_width
    assert 0 <= top < bottom <= input_height
    # Resizing one colour gives that colour, and only padding is another.
    assert (fitted.pixels[top:bottom, left:right] == colour).all()
    is_padding = np.ones((input_height, input_width), bool)
    is_padding[top:bottom, left:right] = False
    assert (fitted.pixels[is_padding] == 128).all()
    if mode is not ResizeMode.PAD:
        assert not is_padding.any()


@examples(100)
@given(
    height=SIDES,
    width=SIDES,
    mode=MODES,
    region=st.none() | regions(),
    seed=st.integers(0, 2**32 - 1),
)
def test_segments_leave_as_png_and_come_back(
    height: int, width: int, mode: ResizeMode, region: Region | None, seed: int
) -> None:
    fitted = fit(np.zeros((height, width, 3), np.uint8), ResizeRule(24, 20, mode), region)
    ids = np.random.default_rng(seed).integers(0, 9, (24, 20)) * 8000
    there = fitted.to_source(ids)
    file = io.BytesIO()
    Image.fromarray(there).save(file, "PNG")
    read = read_segments(file.getvalue(), (height, width), height * width)
    assert np.array_equal(read, there)
    assert set(np.unique(fitted.from_source(read))) <= set(np.unique(ids))
    left, top, right, bottom = fitted.source_box
    seen = np.zeros((height, width), bool)
    seen[top:bottom, left:right] = True
    assert np.array_equal(there != UNSEEN, seen)


@examples(60)
@given(
    num_ids=st.sampled_from((1, 2, SEGMENTS_LIMIT, SEGMENTS_LIMIT + 1, 2000)),
    most=st.integers(1, 9),
)
def test_more_segments_than_the_limit_are_refused(num_ids: int, most: int) -> None:
    ids = np.arange(60 * 60, dtype=np.uint16).reshape(60, 60) % num_ids * (most + 20)
    file = io.BytesIO()
    Image.fromarray(ids).save(file, "PNG")
    if len(np.unique(ids)) <= SEGMENTS_LIMIT:
        assert np.array_equal(read_segments(file.getvalue(), (60, 60), 3600), ids)
    else:
        with pytest.raises(InvalidRequestError, match="expected at most"):
            read_segments(file.getvalue(), (60, 60), 3600)


@examples(200)
@given(
    probabilities=PROBABILITIES,
    task=st.sampled_from(sorted(CLASSIFYING)),
    top_k=st.integers(0, 3),
    threshold=THRESHOLDS,
)
def test_a_decision_follows_from_order_and_thresholds(
    bundles: Any, probabilities: Any, task: Task, top_k: int, threshold: float | None
) -> None:
    metadata = bundles.metadata(task=task)
    found = decide(probabilities, metadata, top_k=top_k, threshold=threshold)
    by_label = dict(zip(metadata.labels, probabilities.tolist(), strict=True))
    values = [score.probability for score in found.scores]
    assert len(values) == (top_k or 3)
    assert values == sorted(by_label.values(), reverse=True)[: len(values)]
    assert all(by_label[score.label] == score.probability for score in found.scores)
    if task is Task.MULTICLASS:
        needed = np.float32(metadata.threshold if threshold is None else threshold)
        assert found.label == (found.scores[0].label if max(probabilities) >= needed else None)
        assert found.labels == ()
        decided = {found.label} - {None}
    else:
        least = metadata.label_thresholds if threshold is None else [threshold] * 3
        over = probabilities >= np.asarray(least, np.float32)
        assert found.label is None
        assert set(found.labels) == {metadata.labels[i] for i in np.flatnonzero(over)}
        probabilities = [by_label[label] for label in found.labels]
        assert probabilities == sorted(probabilities, reverse=True)
        decided = set(found.labels)
    assert found.decision is (Decision.LABEL if decided else Decision.ABSTAINED)
    assert found.alert == ("red" in decided)


@examples(60)
@given(probabilities=PROBABILITIES, task=st.sampled_from(sorted(CLASSIFYING)))
def test_a_higher_threshold_never_decides_more(
    bundles: Any, probabilities: Any, task: Task
) -> None:
    def decided(threshold: float) -> bool:
        found = decide(probabilities, bundles.metadata(task=task), threshold=threshold)
        return found.decision is Decision.LABEL

    found = [decided(threshold) for threshold in np.linspace(0, 1, 11)]
    assert found == sorted(found, reverse=True)
    assert found[0]
