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
from limelens.train.data.examples import Example, targets_of
from limelens.train.evaluation.evaluate import Evaluation, assess
from limelens.train.evaluation.metrics import compute_metrics
from limelens.train.evaluation.model import BatchFunction, Model, load_model
from limelens.train.report import plots
from limelens.train.report.mistakes import worst_mistakes
from limelens.train.report.page import write_report
from limelens.train.runs import read_rows


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


def _evaluation(
    model: Model, examples: tuple[Example, ...], probabilities: NDArray[np.floating]
) -> Evaluation:
    metrics = compute_metrics(
        probabilities,
        targets_of(examples, len(model.labels), model.task),
        model.labels,
        model.task,
        thresholds=model.label_thresholds,
    )
    return Evaluation(metrics, examples, probabilities, model)


def _model(labels: tuple[str, ...], task: Task, side: int, predict: BatchFunction) -> Model:
    return Model(
        "fake", labels, task, ResizeRule(side, side), predict, predict,
        label_thresholds=(0.5,) * len(labels) if task is Task.MULTILABEL else (),
    )  # fmt: skip


def _wrong_evaluation(run: Path, data: Path) -> Evaluation:
    """The run's evaluation with swapped labels, so that every image is a mistake."""
    evaluation = assess(run, data, split="test")
    swapped = tuple(Example(example.path, (1 - example.target,)) for example in evaluation.examples)
    return _evaluation(evaluation.model, swapped, evaluation.probabilities)


def test_a_run_leaves_a_page_that_needs_nothing_else(
    trained_run: Path, divided: Path, tmp_path: Path
) -> None:
    text = (trained_run / "report.html").read_text(encoding="utf-8")
    _Page(text)
    assert _needs_nothing_else(text)
    for word in ("on val", "Training", "Which labels are confused", "calibration", "16 images"):
        assert word in text
    evaluation = assess(trained_run, divided, split="val")
    write_report(evaluation, tmp_path / "again.html", rows=read_rows(trained_run))
    minute = re.compile(r"Written by limelens on [^.]*")
    again = (tmp_path / "again.html").read_text(encoding="utf-8")
    assert minute.sub("", again) == minute.sub("", text)


def test_plots_have_text_alternatives_and_ids_of_their_own(trained_run: Path) -> None:
    text = (trained_run / "report.html").read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 5
    assert all(re.match(r'<svg role="img" aria-label="[^"]+"', one) for one in drawings)
    ids = [{*re.findall(r'\bid="([^"]+)"', one)} for one in drawings]
    for drawing, own in zip(drawings, ids, strict=True):
        assert {*re.findall(r'(?:url\(#|href="#)([^")]+)', drawing)} <= own
    assert len(set.union(*ids)) == sum(map(len, ids))


def test_the_most_confident_mistakes_are_shown_and_explained(
    trained_run: Path, divided: Path, tmp_path: Path
) -> None:
    evaluation = _wrong_evaluation(trained_run, divided)
    chosen = worst_mistakes(evaluation, 4)
    confidence = [evaluation.probabilities[one.index, one.label] for one in chosen]
    assert confidence == sorted(confidence, reverse=True)
    assert confidence[0] == evaluation.probabilities.max()
    path = tmp_path / "page.html"
    write_report(evaluation, path, inspection=inspect(divided), num_mistakes=4)
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
    write_report(assess(bundle, divided, split="test"), path, rows=read_rows(bundle))
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

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        colours: NDArray[np.float32] = images.mean(axis=(1, 2), dtype=np.float32) / 255
        return colours

    model = _model(labels, Task.MULTILABEL, 24, predict)
    evaluation = _evaluation(model, tuple(examples), rng.random((12, 3)))
    chosen = worst_mistakes(evaluation, 6)
    assert len({one.index for one in chosen}) == len(chosen)
    assert {one.missed for one in chosen} == {True, False}
    path = tmp_path / "page.html"
    write_report(evaluation, path, num_mistakes=2)
    text = path.read_text(encoding="utf-8")
    _Page(text)
    assert "base rates:" in text
    assert "<b>bold</b>" not in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text


def test_a_page_without_mistakes_has_a_note(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "0.png")
    examples = (Example(tmp_path / "0.png", (0,)),)

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.tile(np.array([0.9, 0.1], dtype=np.float32), (len(images), 1))

    path = tmp_path / "page.html"
    model = _model(("a", "b"), Task.MULTICLASS, 20, predict)
    write_report(_evaluation(model, examples, np.array([[0.9, 0.1]])), path)
    assert "makes no mistake on these images" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("num_labels", [2, 10, 122])
def test_a_confusion_matrix_names_every_label_in_any_script(num_labels: int) -> None:
    # Dollar signs are no formula.
    labels = [f"品类 ${index}$" for index in range(num_labels)]
    figure = plots.confusion_matrix(np.eye(num_labels, dtype=int).tolist(), labels)
    drawn = plots.to_svg(figure, "confusion", 'a "matrix"')
    assert drawn.startswith("<svg")
    assert all(drawn.count(f">{label}<") == 2 for label in labels)
    assert "currentColor" in drawn
    assert 'aria-label="a &quot;matrix&quot;"' in drawn
