"""A page that shows what a model does: one HTML file that needs nothing else.

It puts figures, mistakes and an inspection of data on the page (`page.html.j2`) and computes
none of them.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.bundle import Task
from limelens.serve.files import write_whole
from limelens.serve.image import ResizeRule, read_image
from limelens.train.audit.duplicates import Duplicate
from limelens.train.audit.inspection import Inspection
from limelens.train.data.examples import Example, targets_of
from limelens.train.evaluation.evaluate import Evaluation, assess, assess_examples
from limelens.train.evaluation.model import Answer, is_bundle, load_model
from limelens.train.report import figures
from limelens.train.report.mistakes import ExplainedMistake, explain_mistakes, small, worst_mistakes
from limelens.train.report.predictions import predicted_labels

REPORT: Final = "report.html"
_TEMPLATE: Final = "page.html.j2"
_MOST_CONFUSIONS: Final = 15
_MOST_PREDICTED: Final = 4
_MOST_TWINS: Final = 12
_MOST_SUSPECTS: Final = 24
_MOST_LISTED: Final = 30
_THUMBNAIL: Final = 180


def write_report(
    evaluation: Evaluation,
    path: Path,
    *,
    predict: Answer,
    resize: ResizeRule,
    rows: Sequence[Mapping[str, float]] = (),
    inspection: Inspection | None = None,
    num_mistakes: int = 12,
    hide: str = "mean",
) -> None:
    """Writes the page of an evaluation.

    Args:
        evaluation: What was said of labelled images.
        path: The HTML file.
        predict: The model's, to explain mistakes.
        resize: How images are brought to its input.
        rows: Of the run's metrics.csv; with fewer than two there are no curves.
        inspection: Of the data; None leaves that part out.
        num_mistakes: How many of the most confident mistakes are shown and explained.
        hide: What a hidden segment of an explanation looks like: mean, blur.
    """
    explained = explain_mistakes(
        worst_mistakes(evaluation, num_mistakes), evaluation, predict, resize, hide=hide
    )
    base = _common_folder([example.path for example in evaluation.examples])
    told = evaluation.figures
    is_multilabel = evaluation.task is Task.MULTILABEL
    _write(
        path,
        title=f"{told.get('model', 'A model')} on {told.get('split', 'its images')}",
        figures=told,
        base=str(base),
        headline=_headline(evaluation),
        curves=Markup(figures.curves(rows)) if len(rows) > 1 else None,
        confusion=None
        if is_multilabel
        else Markup(figures.confusion(told["confusion"], evaluation.labels)),
        confusions=[] if is_multilabel else _confusions(evaluation),
        base_rates=Markup(_base_rates(evaluation)) if is_multilabel else None,
        per_label=_per_label(evaluation),
        mistakes=[_mistake_card(one, evaluation, base) for one in explained],
        inspection=_inspection(inspection) if inspection else None,
        **_confidence_figures(evaluation),
    )


def write_inspection(inspection: Inspection, path: Path) -> None:
    """Writes the page of an inspection alone.

    Args:
        inspection: Of data.
        path: The HTML file.
    """
    _write(
        path,
        title=f"The data in {inspection.data}",
        figures=None,
        inspection=_inspection(inspection),
    )


def report_on(
    run_or_model: Path, evaluation: Evaluation, path: Path, *, inspection: Inspection | None = None
) -> None:
    """Writes the page of a run's, a checkpoint's or a bundle's evaluation.

    Args:
        run_or_model: Which was evaluated.
        evaluation: What it said.
        path: The HTML file.
        inspection: As for `write_report`.
    """
    model = load_model(run_or_model)
    write_report(
        evaluation,
        path,
        predict=model.predict,
        resize=model.resize,
        rows=() if is_bundle(run_or_model) else read_rows(run_or_model),
        inspection=inspection,
    )


def write_run_report(
    run: Path, *, examples: Sequence[Example] | None = None, num_mistakes: int = 12
) -> Path:
    """Writes `report.html` into a run's folder: its best checkpoint on the validation images.

    Args:
        run: A finished run.
        examples: The validation images; None reads the data that the run was trained on.
        num_mistakes: As for `write_report`.

    Returns:
        The page.

    Raises:
        CheckpointError: The run holds no checkpoint.
        DataError: The data has changed or moved.
    """
    model = load_model(run)
    if examples is None:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        images = config.get("images")
        evaluation = assess(
            run, Path(config["data"]), split="val", images=Path(images) if images else None
        )
    else:
        evaluation = assess_examples(run, examples)
    path = run / REPORT
    write_report(
        evaluation,
        path,
        predict=model.predict,
        resize=model.resize,
        rows=read_rows(run),
        num_mistakes=num_mistakes,
    )
    return path


def read_rows(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv; none where there is no such file."""
    table = (run if run.is_dir() else run.parent) / "metrics.csv"
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def _write(path: Path, **values: Any) -> None:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["number"] = _number
    page = environment.get_template(_TEMPLATE).render(
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"), **values
    )
    # Names of files may hold bytes that are no text.
    write_whole(path, page)


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _headline(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Name, value and a word on each headline figure."""
    told = evaluation.figures
    if evaluation.task is Task.MULTILABEL:
        return [
            ("macro AUC", _number(told["macro_auc"]), "chance: 0.500"),
            (
                "mean average precision",
                _number(told["mean_average_precision"]),
                f"chance: {_number(_mean_base_rate(evaluation))}",
            ),
            ("loss", _number(told["loss"], 4), f"base rates: {told['base_rate_loss']:.4f}"),
            ("micro F1", _number(told["micro_f1"]), f"macro: {_number(told['macro_f1'])}"),
            ("a true label in top 3", _percent(told["top3_accuracy"]), "of images with one"),
        ]
    commonest = max(row["support"] for row in told["per_class"].values()) / told["num_images"]
    found = [
        ("accuracy", _percent(told["accuracy"], 2), f"commonest label: {commonest:.1%}"),
        ("macro F1", _number(told["macro_f1"]), "all labels alike"),
        ("loss", _number(told["loss"]), "negative log likelihood"),
        ("calibration error", _number(told["ece"]), "0 is perfect"),
    ]
    if len(evaluation.labels) > 5:
        found.insert(1, ("among the first five", _percent(told["top5_accuracy"], 2), ""))
    if "macro_label_accuracy" in told:
        found.insert(1, ("macro label right", _percent(told["macro_label_accuracy"], 2), ""))
    return found


def _confidence_figures(evaluation: Evaluation) -> dict[str, Any]:
    probabilities = np.asarray(evaluation.probabilities)
    targets = targets_of(evaluation.examples, len(evaluation.labels), evaluation.task)
    if evaluation.task is Task.MULTILABEL:
        drawn = figures.reliability(probabilities.ravel(), targets.ravel().astype(np.bool_))
        return {"reliability": Markup(drawn), "coverage": None, "reached": None}
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    reached = evaluation.figures["at_wanted_accuracy"]
    return {
        "reliability": Markup(figures.reliability(confidence, correct)),
        "coverage": Markup(figures.coverage(confidence, correct, reached)),
        "reached": reached,
    }


def _confusions(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The pairs of labels that are confused most."""
    counts = np.array(evaluation.figures["confusion"])
    support = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    pairs = [divmod(int(flat), len(counts)) for flat in order]
    return [
        {
            "true": evaluation.labels[true],
            "predicted": evaluation.labels[predicted],
            "count": int(counts[true, predicted]),
            "share": counts[true, predicted] / support[true],
        }
        for true, predicted in pairs
        if counts[true, predicted]
    ]


def _per_label(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The table of labels, the weakest first."""
    told = evaluation.figures
    key = "average_precision" if evaluation.task is Task.MULTILABEL else "f1"
    rows = [
        {"label": label, "share": row["support"] / told["num_images"], **row}
        for label, row in told["per_class"].items()
    ]
    return sorted(rows, key=lambda row: (row[key] is None, row[key] or 0.0))


def _mean_base_rate(evaluation: Evaluation) -> float | None:
    known = [row["share"] for row in _per_label(evaluation) if row["average_precision"] is not None]
    return float(np.mean(known)) if known else None


def _base_rates(evaluation: Evaluation) -> str:
    known = [row for row in _per_label(evaluation) if row["average_precision"] is not None]
    known.sort(key=lambda row: -row["average_precision"])
    return figures.against_base_rates(
        [row["label"] for row in known],
        [row["average_precision"] for row in known],
        [row["share"] for row in known],
    )


def _mistake_card(one: ExplainedMistake, evaluation: Evaluation, base: Path) -> dict[str, Any]:
    index, label = one.mistake.index, one.mistake.label
    example, row = evaluation.examples[index], evaluation.probabilities[index]
    predicted = predicted_labels(evaluation)[index]
    predicted = predicted[np.argsort(-row[predicted], kind="stable")]
    return {
        "name": _relative(example.path, base),
        "image": _data_url(one.image),
        "overlay": _data_url(one.overlay),
        "true": [(evaluation.labels[i], float(row[i])) for i in example.targets],
        "predicted": [(evaluation.labels[i], float(row[i])) for i in predicted[:_MOST_PREDICTED]],
        "num_more": max(0, len(predicted) - _MOST_PREDICTED),
        "label": evaluation.labels[label],
        "probability": float(row[label]),
        "missed": one.mistake.missed,
        "score": one.score,
    }


def _inspection(inspection: Inspection) -> dict[str, Any]:
    """What the page shows of an inspection, with thumbnails."""
    base = inspection.data if inspection.data.is_dir() else inspection.data.parent
    pairs = inspection.duplicates
    contradicting = [pair for pair in pairs if pair.differ_in_label]
    agreeing = [pair for pair in pairs if not pair.differ_in_label]
    crossing = [pair for pair in agreeing if pair.cross_splits]
    inside = [pair for pair in agreeing if not pair.cross_splits]
    totals = inspection.totals
    return {
        "told": inspection,
        "totals": sorted(totals.items(), key=lambda item: -item[1]),
        "largest": max(totals.values()) or 1,
        "smallest": min(totals.values()),
        "num_pictures": sum(inspection.num_images.values()),
        "twins": [
            (title, word, len(pairs), [_pair(pair, base) for pair in pairs[:_MOST_TWINS]])
            for title, word, pairs in (
                ("with different labels", "one of the two is wrong", contradicting),
                ("across splits", "figures flatter by these", crossing),
                ("inside a split", "harmless, but they count twice", inside),
            )
        ],
        "unreadable": [
            (_relative(one.path, base), one.reason) for one in inspection.unreadable[:_MOST_LISTED]
        ],
        "unused": [_relative(path, base) for path in inspection.unused[:_MOST_LISTED]],
        "suspects": [
            {
                "name": _relative(suspect.place.path, base),
                "image": _thumbnail(suspect.place.path),
                "split": suspect.place.split,
                "given": ", ".join(suspect.place.labels) or "none",
                "suggested": ", ".join(suspect.suggested) or "none",
                "score": suspect.score,
            }
            for suspect in inspection.suspects[:_MOST_SUSPECTS]
        ],
    }


def _pair(pair: Duplicate, base: Path) -> dict[str, Any]:
    kinds = {"bytes": "the same file", "pixels": "the same pixels", "near": "nearly the same"}
    return {
        "kind": kinds[pair.kind],
        "sides": [
            {
                "name": _relative(place.path, base),
                "image": _thumbnail(place.path),
                "words": ", ".join(
                    [*([] if place.split == "all" else [place.split]), *place.labels]
                ),
            }
            for place in (pair.first, pair.second)
        ],
    }


def _thumbnail(path: Path) -> str:
    return _data_url(small(read_image(path.read_bytes()), _THUMBNAIL))


def _data_url(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _common_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


def _relative(path: Path, base: Path) -> str:
    return str(path.relative_to(base) if path.is_relative_to(base) else path)
