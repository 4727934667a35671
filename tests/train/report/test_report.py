from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.bundle import Task
from limelens.serve.image import ResizeRule
from limelens.train.audit.inspection import inspect
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import Example
from limelens.train.evaluation.evaluate import Evaluation, assess
from limelens.train.evaluation.metrics import figures_of
from limelens.train.evaluation.model import load_model
from limelens.train.report import figures
from limelens.train.report.mistakes import worst_mistakes
from limelens.train.report.page import report_on, write_report, write_run_report


class _Page(HTMLParser):
    """Checks that tags close as they opened, and remembers images."""

    void = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _needs_nothing_else(text: str) -> bool:
    # Names of XML vocabularies look like addresses and are never fetched.
    named = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    return not re.search(r"https?:|<script|<link|@import", named)


def _wrong_evaluation(run: Path, data: Path) -> Evaluation:
    """What the run says, of labels that were swapped: every image is a mistake."""
    evaluation = assess(run, data, split="test")
    swapped = tuple(Example(example.path, (1 - example.target,)) for example in evaluation.examples)
    targets = np.array([example.target for example in swapped])
    told = figures_of(evaluation.probabilities, targets, evaluation.labels, Task.MULTICLASS)
    return Evaluation(
        told, swapped, evaluation.probabilities, evaluation.labels, Task.MULTICLASS, {}
    )


def test_a_run_leaves_a_page_that_needs_nothing_else(trained_run: Path, divided: Path) -> None:
    path = write_run_report(trained_run)
    assert path == trained_run / "report.html"
    text = path.read_text(encoding="utf-8")
    _Page(text)
    assert _needs_nothing_else(text)
    for word in ("on val", "Training", "What is taken for what", "calibration", "16 images"):
        assert word in text
    given = write_run_report(trained_run, examples=read_dataset(divided).splits["val"])
    minute = re.compile(r"Written by limelens on [^.]*")
    assert minute.sub("", given.read_text(encoding="utf-8")) == minute.sub("", text)


def test_the_surest_mistakes_are_shown_with_their_explanations(
    trained_run: Path, divided: Path, tmp_path: Path
) -> None:
    evaluation = _wrong_evaluation(trained_run, divided)
    chosen = worst_mistakes(evaluation, 4)
    sure = [evaluation.probabilities[one.index, one.label] for one in chosen]
    assert sure == sorted(sure, reverse=True)
    assert sure[0] == evaluation.probabilities.max()
    model = load_model(trained_run)
    path = tmp_path / "page.html"
    write_report(
        evaluation,
        path,
        predict=model.predict,
        resize=model.resize,
        inspection=inspect(divided),
        num_mistakes=4,
    )
    page = _Page(path.read_text(encoding="utf-8"))
    assert all(image.startswith("data:image/jpeg;base64,") for image in page.images)
    assert len(page.images) >= 8
    assert len(set(page.images[:8])) == 8


def test_a_bundle_and_its_run_agree_and_have_a_page_each(
    trained_run: Path, divided: Path, tmp_path: Path
) -> None:
    from limelens.train.exporting.export import export

    bundle = Path(export(trained_run, "colours", models=tmp_path)["path"])
    path = tmp_path / "page.html"
    report_on(bundle, assess(bundle, divided, split="test"), path)
    text = path.read_text(encoding="utf-8")
    _Page(text)
    assert ">Training<" not in text
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    of_run, of_bundle = load_model(trained_run), load_model(bundle)
    np.testing.assert_allclose(of_run.predict(images), of_bundle.predict(images), atol=1e-4)
    np.testing.assert_allclose(of_run.embed(images), of_bundle.embed(images), atol=1e-3)


def test_several_labels_are_compared_with_their_base_rates(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = ("<b>bold</b>", "rare", "wide")
    examples = []
    for index in range(12):
        pixels = rng.integers(0, 255, (24, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        examples.append(
            Example(tmp_path / f"{index}.png", tuple(np.flatnonzero([index % 2, 0, 1])))
        )
    targets = np.array([[index % 2, 0, 1] for index in range(12)])
    probabilities = rng.random((12, 3))
    told = figures_of(probabilities, targets, labels, Task.MULTILABEL, thresholds=(0.5, 0.5, 0.5))
    evaluation = Evaluation(told, tuple(examples), probabilities, labels, Task.MULTILABEL, {})
    chosen = worst_mistakes(evaluation, 6)
    assert len({one.index for one in chosen}) == len(chosen)
    assert {one.missed for one in chosen} == {True, False}

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        colours: NDArray[np.float32] = images.mean(axis=(1, 2), dtype=np.float32) / 255
        return colours

    path = tmp_path / "page.html"
    write_report(evaluation, path, predict=predict, resize=ResizeRule(24, 24), num_mistakes=2)
    text = path.read_text(encoding="utf-8")
    _Page(text)
    assert "base rates:" in text
    assert "<b>bold</b>" not in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text


def test_a_page_without_mistakes_says_so(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "0.png")
    examples = (Example(tmp_path / "0.png", (0,)),)
    probabilities = np.array([[0.9, 0.1]])
    told = figures_of(probabilities, np.array([0]), ("a", "b"), Task.MULTICLASS)
    evaluation = Evaluation(told, examples, probabilities, ("a", "b"), Task.MULTICLASS, {})
    path = tmp_path / "page.html"

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.tile(np.array([0.9, 0.1], dtype=np.float32), (len(images), 1))

    write_report(evaluation, path, predict=predict, resize=ResizeRule(20, 20))
    assert "There are none on these images" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("num_labels", [2, 10, 122])
def test_a_confusion_matrix_names_every_label_in_any_script(num_labels: int) -> None:
    labels = [f"品类 {index}" for index in range(num_labels)]
    drawn = figures.confusion(np.eye(num_labels, dtype=int).tolist(), labels)
    assert drawn.startswith("<svg")
    assert all(drawn.count(f">{label}<") == 2 for label in labels)
    assert "currentColor" in drawn
