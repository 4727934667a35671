"""The margin around faces that an export chooses on validation images, or is given."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image
from tests.conftest import BundleMaker
from tests.detectors import BLUE, GREEN, RED, frame_of, save_detector

from limelens.serve.bundle import Bundle, Task, load_bundle
from limelens.serve.errors import BundleError
from limelens.serve.faces.detector import FaceDetector, load_detector
from limelens.train import ExportError, export
from limelens.train.data.examples import Example
from limelens.train.exporting import export as exporting
from limelens.train.exporting.crops import MARGINS, MIN_FACES, choose_crop

Colour = tuple[int, int, int]
GREENISH = (20, 75, 20)
"""Around a red square it is the greater part of a crop with the widest margin alone."""


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> FaceDetector:
    return load_detector(save_detector(tmp_path_factory.mktemp("detector")), "cpu")


@pytest.fixture
def colours(one_model: Path) -> Bundle:
    return load_bundle(one_model / "colours" / "1", "cpu")


def examples(
    folder: Path, bundle: Bundle, faces: Iterable[tuple[Colour, str]], around: Colour = (40, 40, 40)
) -> list[Example]:
    """Images of a square of 80 pixels in each colour, with the given label."""
    folder.mkdir()
    found = []
    for number, (colour, label) in enumerate(faces):
        pixels = frame_of([(160, 80, 80, colour)])
        pixels[(pixels == 40).all(axis=2)] = around
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        found.append(Example(path, (bundle.labels.index(label),)))
    return found


def test_the_smallest_of_equally_good_margins_is_chosen(
    tmp_path: Path, colours: Bundle, detector: FaceDetector
) -> None:
    faces = [(RED, "red"), (GREEN, "green"), (BLUE, "blue")] * 8
    choice = choose_crop(colours, examples(tmp_path / "images", colours, faces), detector)
    assert choice.margin == 0
    assert choice.num_faces == 24
    assert choice.accuracy == dict.fromkeys(MARGINS, 1.0)


def test_a_wide_margin_is_chosen_if_only_it_is_right(
    tmp_path: Path, colours: Bundle, detector: FaceDetector
) -> None:
    faces = [(RED, "green")] * MIN_FACES
    images = examples(tmp_path / "images", colours, faces, GREENISH)
    choice = choose_crop(colours, images, detector)
    assert choice.margin == MARGINS[-1]
    assert choice.accuracy[MARGINS[-1]] == 1
    assert choice.accuracy[0.0] == 0
    assert choice.to_json() == {
        "num_faces": MIN_FACES,
        "accuracy": {f"{margin:g}": float(margin == MARGINS[-1]) for margin in MARGINS},
    }


def test_a_margin_within_the_error_of_the_best_is_among_the_best(
    tmp_path: Path, colours: Bundle, detector: FaceDetector
) -> None:
    # 0.8 is right for 22 of 24 and smaller margins for 21: less than a standard error apart.
    right = examples(tmp_path / "right", colours, [(RED, "red")] * 21)
    wide = examples(tmp_path / "wide", colours, [(RED, "green")], GREENISH)
    wrong = examples(tmp_path / "wrong", colours, [(RED, "blue")] * 2)
    choice = choose_crop(colours, [*right, *wide, *wrong], detector)
    assert choice.accuracy[0.8] == pytest.approx(22 / 24)
    assert choice.accuracy[0.0] == pytest.approx(21 / 24)
    assert choice.margin == 0


def test_too_few_faces_choose_no_margin(
    tmp_path: Path, colours: Bundle, detector: FaceDetector
) -> None:
    images = examples(tmp_path / "images", colours, [(RED, "red")] * 5)
    with pytest.raises(ExportError, match="a face in 5 of 5 validation images; expected at least"):
        choose_crop(colours, images, detector)


def test_accuracies_of_several_labels_cannot_be_compared(
    tmp_path: Path, bundles: BundleMaker, detector: FaceDetector
) -> None:
    path = bundles.save(tmp_path, bundles.metadata("tags", Task.MULTILABEL), 1)
    with pytest.raises(ExportError, match="tags is multilabel; expected a number"):
        choose_crop(load_bundle(path, "cpu"), [], detector)


def test_a_given_margin_is_in_the_bundle_and_its_card(trained_run: Path, tmp_path: Path) -> None:
    report = export(trained_run, "colours", models=tmp_path, crop=0.5)
    assert report["crop"] == 0.5
    path = Path(report["path"])
    assert load_bundle(path, "cpu").metadata.crop == 0.5
    card = path.with_name("README.md").read_text()
    assert "| precision | fp32 |\n| crop | a face with 0.5 of its box on each side |\n" in card


def test_a_model_that_is_not_about_faces_has_no_margin(trained_run: Path, tmp_path: Path) -> None:
    report = export(trained_run, "colours", models=tmp_path)
    assert report["crop"] is None
    path = Path(report["path"])
    assert load_bundle(path, "cpu").metadata.crop is None
    assert "| crop |" not in path.with_name("README.md").read_text()


def test_an_impossible_margin_is_refused_and_nothing_is_written(
    trained_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=r"crop 3\.0; expected 0 to 2"):
        export(trained_run, "colours", models=tmp_path / "models", crop=3.0)
    assert not (tmp_path / "models").exists()


def test_auto_without_faces_in_the_images_is_refused_and_nothing_is_written(
    trained_run: Path, tmp_path: Path, detector: FaceDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "load_detector", lambda *_: detector)
    with pytest.raises(ExportError, match="a face in 0 of 16 validation images"):
        export(trained_run, "colours", models=tmp_path / "models", crop="auto")
    assert not (tmp_path / "models").exists()
