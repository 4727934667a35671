"""What makes a version clearly worse."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from tests.golden_images import colours, golden_images, put_bundle, write_folder

from limelens.serve.bundle import Bundle, Task, load_bundle
from limelens.serve.bundle.golden_images import GoldenImage, encode_golden
from limelens.serve.errors import BundleError
from limelens.serve.image import ResizeRule, read_image
from limelens.serve.repository import judging
from limelens.serve.repository.judging import (
    Judgement,
    Rival,
    images_of,
    judge,
    judge_against,
    scores,
)

IMAGES = golden_images()
Load = Callable[..., Bundle]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a bundle of colours; the arguments are those of `colours`."""

    def load(**given: Any) -> Bundle:
        path = tmp_path / "model.onnx"
        path.write_bytes(colours(**given).SerializeToString())
        return load_bundle(path, "cpu")

    return load


def p_of(judgement: Judgement) -> float:
    found = re.search(r"p = ([^)]*)", judgement.text)
    assert found is not None, judgement.text
    return float(found[1])


def mislabelled(images: tuple[GoldenImage, ...], count: int) -> tuple[GoldenImage, ...]:
    """The first images with the label of another, on which a good bundle is wrong."""
    other = {"red": "green", "green": "blue", "blue": "red"}
    wrong = [replace(one, labels=(other[one.labels[0]],)) for one in images[:count]]
    return (*wrong, *images[count:])


@pytest.mark.parametrize(("num_lost", "is_worse"), [(4, False), (5, True), (8, True)])
def test_p_is_that_of_an_exact_sign_test(load: Load, num_lost: int, is_worse: bool) -> None:
    # A bundle that guesses is right on red images alone: 3 of 15 are not of use to it.
    images = tuple(one for one in golden_images(90) if one.labels != ("red",))[:num_lost]
    images = (*images, *(one for one in golden_images(60) if one.labels == ("red",)))
    found = judge(load(gain=0.0), load(images=images), "version 1")
    assert found.is_worse is is_worse
    expected = binomtest(num_lost, num_lost, alternative="greater").pvalue
    assert math.isclose(p_of(found), expected, rel_tol=0.05)


def test_gains_count_against_losses(load: Load) -> None:
    # Of 24 images the one loses 12 that are not red, and gains the red ones that are mislabelled.
    images = mislabelled(golden_images(24), 12)
    old, new = load(images=images), load(gain=0.0)
    found = judge(new, old, "version 1")
    num_lost = int((scores(new, images) < scores(old, images)).sum())
    num_gained = int((scores(new, images) > scores(old, images)).sum())
    assert num_lost
    assert num_gained
    expected = binomtest(num_lost, num_lost + num_gained, alternative="greater").pvalue
    assert math.isclose(p_of(found), expected, rel_tol=0.05)


def test_equal_versions_are_not_worse(load: Load) -> None:
    found = judge(load(images=golden_images(seed=4)), load(images=IMAGES), "version 1")
    assert found == Judgement(False, "right on 24 of 24 golden images, version 1 on 24 (p = 1)")


def test_labels_in_another_order_are_found_whatever_the_new_bundle_brings(load: Load) -> None:
    # On its own images, whose labels are wrong in the same way, the new one gains what it loses.
    turned = ("green", "blue", "red")
    new = load(labels=turned, images=mislabelled(golden_images(seed=1), 24))
    found = judge(new, load(images=IMAGES), "version 1")
    assert found.is_worse
    assert found.text.startswith("right on 0 of 24 golden images, version 1 on 24")


def test_a_bundle_that_learnt_the_old_images_by_heart_is_found_on_its_own(load: Load) -> None:
    # The old bundle's images say nothing: both are right on the few there are.
    red = tuple(one for one in IMAGES if one.labels == ("red",))
    found = judge(load(gain=0.0, images=golden_images(seed=1)), load(images=red), "version 1")
    assert found.is_worse
    assert "of 32 golden images, version 1 on 32" in found.text


def test_a_label_that_vanished_counts_as_wrong_and_a_new_one_does_not_count(load: Load) -> None:
    old = load(images=IMAGES)
    new = load(labels=("red", "green", "violet"))
    found = judge(new, old, "version 1")
    assert found.is_worse
    assert found.text.startswith("right on 16 of 24 golden images, version 1 on 24")
    assert found.text.endswith("; it lacks the label blue")
    violet = tuple(replace(one, labels=("violet",)) for one in IMAGES)
    more = load(labels=("red", "green", "violet"), images=violet)
    assert judge(more, old, "version 1").text == found.text


def test_several_labels_are_judged_by_f1(tmp_path: Path, bundles: Any) -> None:
    draw = np.random.default_rng(3)
    images = []
    for one in golden_images(24):
        extra = () if draw.random() < 0.5 else ("blue",)
        images.append(replace(one, labels=tuple({*one.labels, *extra})))
    metadata = replace(bundles.metadata("tags", Task.MULTILABEL), golden_images=tuple(images))
    old = load_bundle(bundles.save(tmp_path, metadata), "cpu")
    every = replace(metadata, label_thresholds=(0.0, 0.0, 0.0))
    none = replace(metadata, label_thresholds=(1.0, 1.0, 1.0))
    same = judge(old, old, "version 1")
    assert not same.is_worse
    blind = judge(load_bundle(bundles.save(tmp_path, none, 2), "cpu"), old, "version 1")
    assert blind.is_worse
    assert re.match(r"mean F1 0\.000 on 24 golden images, version 1 0\.\d+ \(p = ", blind.text)
    all_of_them = load_bundle(bundles.save(tmp_path, every, 3), "cpu")
    assert np.isclose(
        scores(all_of_them, images).mean(),
        np.mean([2 * len(one.labels) / (len(one.labels) + 3) for one in images]),
    )


def test_images_that_both_bring_in_two_sizes_count_once(load: Load) -> None:
    large = [
        replace(one, encoded=encode_golden(enlarged(read_image(one.encoded)), ResizeRule(48, 48)))
        for one in IMAGES
    ]
    found = judge(load(gain=0.0, images=tuple(large)), load(images=IMAGES), "version 1")
    assert found.text.startswith("right on 8 of 24 golden images")


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def test_fewer_than_five_images_show_nothing(load: Load) -> None:
    found = judge(load(gain=0.0), load(images=IMAGES[:4]), "version 1")
    assert not found.is_judged
    assert not found.is_worse


def test_a_version_that_gives_no_probabilities_is_worse(load: Load) -> None:
    new, old = load(), load(images=IMAGES)
    rows = np.full((24, 3), np.nan, np.float32)

    class Broken:
        def run(self, _outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
            return [rows[: len(inputs["images"])]]

    found = judge(replace(new, session=Broken()), old, "version 1")
    assert found.is_worse
    assert found.text.startswith("it fails on golden images: ")


def test_the_images_of_a_folder_are_spread_over_its_labels(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", 30)
    (folder / "red" / "notes.txt").write_text("no image")
    (folder / "red" / "broken.png").write_bytes(b"no image")
    images = images_of(folder, ResizeRule(16, 16))
    assert sorted({one.labels for one in images}) == [("blue",), ("green",), ("red",)]
    assert len(images) == 30
    assert all(one.fitted(ResizeRule(16, 16)).shape == (16, 16, 3) for one in images)
    with pytest.raises(BundleError, match="expected a folder of them for each label"):
        images_of(folder / "red", ResizeRule(16, 16))


@pytest.mark.parametrize(("side", "expected"), [(16, 32), (48, 48)])
def test_the_images_of_a_folder_suit_the_larger_input(
    side: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images" / "red").mkdir(parents=True)
    Image.new("RGB", (90, 60), (250, 0, 0)).save(tmp_path / "images" / "red" / "0.png")
    path = put_bundle(tmp_path, 1)  # its input is 32 pixels wide
    sides: list[int] = []

    def judged(
        _new: Bundle, _old: Bundle, _rival: str, given: Sequence[GoldenImage] = ()
    ) -> Judgement:
        sides.extend(min(read_image(one.encoded).shape[:2]) for one in given)
        return Judgement(False, "")

    monkeypatch.setattr(judging, "judge", judged)
    rival, load = Rival(1, "version 1", path), lambda: load_bundle(path, "cpu")
    judge_against(rival, load, ResizeRule(side, side), folder=tmp_path / "images")
    assert sides == [expected]
