"""A page about a model or its data: one HTML file that needs nothing else.

It puts plots, mistakes and an inspection of data on the page (`page.html.j2`) but computes none of
them.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.bundle import Task
from limelens.serve.files import write_whole
from limelens.serve.image import read_image
from limelens.train.audit.duplicates import Duplicate
from limelens.train.audit.inspection import Inspection
from limelens.train.data.examples import targets_of
from limelens.train.evaluation.evaluate import Evaluation
from limelens.train.evaluation.metrics import confidences
from limelens.train.evaluation.verdict import no_better_than_guessing
from limelens.train.report import plots
from limelens.train.report.mistakes import Mistake, explain_mistake, shrunk, worst_mistakes
from limelens.train.report.predictions import predicted_labels

_TEMPLATE: Final = "page.html.j2"
_MAX_LABELS_SMALL: Final = 4
"""A confusion matrix of so many labels can be read on a phone as a whole."""
_MAX_CONFUSIONS: Final = 15
_MAX_PREDICTED: Final = 4
_MAX_DUPLICATES: Final = 12
_MAX_SUSPECTS: Final = 24
_MAX_LISTED: Final = 30
_THUMBNAIL_PX: Final = 180


def write_report(
    evaluation: Evaluation,
    path: Path,
    *,
    rows: Sequence[Mapping[str, float]] = (),
    inspection: Inspection | None = None,
    num_mistakes: int = 12,
    advice: Sequence[str] = (),
) -> None:
    """Writes the page of an evaluation, explaining its most confident mistakes.

    `rows` are those of the run's metrics.csv; fewer than two give no curves. `advice` is what to
    try next, if the run was not good.
    """
    metrics, labels = evaluation.metrics, evaluation.model.labels
    base = Path(os.path.commonpath([example.path.parent for example in evaluation.examples]))
    is_multilabel = evaluation.model.task is Task.MULTILABEL
    per_label = _per_label(evaluation)
    values: dict[str, Any] = {"confusion": None, "confusions": [], "base_rates": None}
    if is_multilabel:
        known = [row for row in reversed(per_label) if row["average_precision"] is not None]
        columns = ([row[key] for row in known] for key in ("label", "average_precision", "share"))
        description = "Average precision of each label, beside that of guessing"
        values["base_rates"] = _svg(plots.average_precision(*columns), "base-rates", description)
    else:
        confusion = metrics.get("at_threshold", metrics)["confusion"]
        values["confusion"] = _svg(
            plots.confusion_matrix(confusion, labels),
            "confusion",
            f"Confusion matrix of {len(labels)} labels; accuracy {metrics['accuracy']:.1%}",
        )
        values["confusions"] = _confusions(confusion, labels)
    curves = [
        _svg(
            plots.curves(rows, kind),
            f"curves-{kind}",
            f"{kind.replace('_', ' ')} over {len(rows)} epochs of training",
        )
        for kind in (plots.curve_kinds(rows) if len(rows) > 1 else ())
    ]
    _write(
        path,
        title=f"{metrics.get('model', 'A model')} on {metrics.get('split', 'its images')}",
        metrics=metrics,
        guessing=no_better_than_guessing(metrics),
        advice=advice,
        base=str(base),
        headline=_headline(metrics, per_label),
        curves=curves,
        best_epoch=plots.best_epoch(rows) if curves else "",
        is_small=len(labels) <= _MAX_LABELS_SMALL,
        per_label=per_label,
        mistakes=[
            _mistake(mistake, evaluation, base)
            for mistake in worst_mistakes(evaluation, num_mistakes)
        ],
        inspection=inspection,
        data=_data(inspection) if inspection else None,
        **values,
        **_confidence(evaluation),
    )


def write_inspection(inspection: Inspection, path: Path) -> None:
    """Writes the page of an inspection alone."""
    _write(
        path,
        title=f"The data in {inspection.data}",
        metrics=None,
        inspection=inspection,
        data=_data(inspection),
    )


def _write(path: Path, **values: Any) -> None:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number}
    page = environment.get_template(_TEMPLATE).render(
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"), **values
    )
    write_whole(path, page)


def _svg(figure: Figure, name: str, description: str) -> Markup:
    return Markup(plots.to_svg(figure, name, description))


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _headline(
    metrics: Mapping[str, Any], per_label: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """Name, value and remark of each headline metric."""
    if metrics["task"] == Task.MULTILABEL:
        shares = [row["share"] for row in per_label if row["average_precision"] is not None]
        guessing = float(np.mean(shares)) if shares else None
        return [
            ("macro AUC", _number(metrics["macro_auc"]), "guessing: 0.500"),
            (
                "mean average precision",
                _number(metrics["mean_average_precision"]),
                f"guessing: {_number(guessing)}",
            ),
            ("loss", _number(metrics["loss"], 4), f"base rates: {metrics['base_rate_loss']:.4f}"),
            ("micro F1", _number(metrics["micro_f1"]), f"macro: {_number(metrics['macro_f1'])}"),
            ("a true label in top 3", _percent(metrics["top3_accuracy"]), "of images with one"),
        ]
    commonest = max(row["share"] for row in per_label)
    tiles = [("accuracy", _percent(metrics["accuracy"], 2), f"commonest label: {commonest:.1%}")]
    if "macro_label_accuracy" in metrics:
        accuracy = _percent(metrics["macro_label_accuracy"], 2)
        tiles.append(("superclass accuracy", accuracy, ""))
    own = metrics.get("at_threshold")
    if own is not None:
        right = f"{_percent(own['accuracy'])} of these correct"
        tiles.append((f"decided at {own['threshold']:.3f}", _percent(own["coverage"]), right))
    if len(metrics["labels"]) > 5:
        tiles.append(("top-5 accuracy", _percent(metrics["top5_accuracy"], 2), ""))
    return [
        *tiles,
        ("macro F1", _number(metrics["macro_f1"]), "all labels count the same"),
        ("loss", _number(metrics["loss"]), "negative log likelihood"),
        ("calibration error", _number(metrics["ece"]), "0 is perfect"),
    ]


def _confidence(evaluation: Evaluation) -> dict[str, Any]:
    """The plots that show whether the model's confidence can be trusted."""
    probabilities, model = np.asarray(evaluation.probabilities), evaluation.model
    targets = targets_of(evaluation.examples, len(model.labels), model.task)
    coverage = reached = None
    confidence, correct = confidences(probabilities, targets, model.task)
    if model.task is not Task.MULTILABEL:
        reached = evaluation.metrics["at_wanted_accuracy"]
        coverage = _svg(
            plots.coverage(confidence, correct, reached),
            "coverage",
            "Accuracy over the share of images that are decided",
        )
    return {
        "reliability": _svg(
            plots.reliability(confidence, correct), "reliability", "Accuracy over confidence"
        ),
        "coverage": coverage,
        "reached": reached,
    }


def _confusions(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs of labels that are confused most; abstentions are no confusion."""
    counts = np.array(confusion)
    support = counts.sum(axis=1)
    counts = counts[:, : len(labels)]
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_MAX_CONFUSIONS]
    pairs = [divmod(int(flat), len(counts)) for flat in order]
    return [
        {
            "true": labels[true],
            "predicted": labels[predicted],
            "count": int(counts[true, predicted]),
            "share": counts[true, predicted] / support[true],
        }
        for true, predicted in pairs
        if counts[true, predicted]
    ]


def _per_label(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The table of labels, the weakest first."""
    metrics = evaluation.metrics
    key = "average_precision" if evaluation.model.task is Task.MULTILABEL else "f1"
    rows = [
        {"label": label, "share": row["support"] / metrics["num_images"], **row}
        for label, row in metrics["per_class"].items()
    ]
    return sorted(rows, key=lambda row: (row[key] is None, row[key] or 0.0))


def _mistake(mistake: Mistake, evaluation: Evaluation, base: Path) -> dict[str, Any]:
    labels = evaluation.model.labels
    example = evaluation.examples[mistake.index]
    probabilities = evaluation.probabilities[mistake.index]
    predicted = predicted_labels(evaluation)[mistake.index]
    predicted = predicted[np.argsort(-probabilities[predicted], kind="stable")]
    image, overlay, score = explain_mistake(mistake, evaluation)
    return {
        "name": _relative(example.path, base),
        "image": _data_url(image),
        "overlay": _data_url(overlay),
        "true": [(labels[i], float(probabilities[i])) for i in example.targets],
        "predicted": [(labels[i], float(probabilities[i])) for i in predicted[:_MAX_PREDICTED]],
        "num_more": max(0, len(predicted) - _MAX_PREDICTED),
        "label": labels[mistake.label],
        "probability": float(probabilities[mistake.label]),
        "missed": mistake.missed,
        "score": score,
    }


def _data(inspection: Inspection) -> dict[str, Any]:
    """The page's data of an inspection, with thumbnails."""
    base = inspection.data if inspection.data.is_dir() else inspection.data.parent
    groups: dict[str, list[Duplicate]] = {"labels": [], "splits": [], "inside": []}
    for pair in inspection.duplicates:
        kind = "splits" if pair.cross_splits else "inside"
        groups["labels" if pair.differ_in_label else kind].append(pair)
    totals = inspection.totals
    return {
        "totals": sorted(totals.items(), key=lambda item: -item[1]),
        "largest": max(totals.values()) or 1,
        "smallest": min(totals.values()),
        "num_images": sum(inspection.num_images.values()),
        "duplicates": [
            (title, remark, len(pairs), [_pair(pair, base) for pair in pairs[:_MAX_DUPLICATES]])
            for title, remark, pairs in (
                ("with different labels", "One of the two is wrong", groups["labels"]),
                ("across splits", "They make metrics look better", groups["splits"]),
                ("inside a split", "Harmless, but they count twice", groups["inside"]),
            )
        ],
        "unreadable": [
            (_relative(one.path, base), one.reason) for one in inspection.unreadable[:_MAX_LISTED]
        ],
        "unused": [_relative(path, base) for path in inspection.unused[:_MAX_LISTED]],
        "suspects": [
            {
                "name": _relative(suspect.place.path, base),
                "image": _thumbnail(suspect.place.path),
                "split": suspect.place.split,
                "given": ", ".join(suspect.place.labels) or "none",
                "suggested": ", ".join(suspect.suggested) or "none",
                "score": suspect.score,
            }
            for suspect in inspection.suspects[:_MAX_SUSPECTS]
        ],
    }


def _pair(pair: Duplicate, base: Path) -> dict[str, Any]:
    kinds = {
        "bytes": "the same file",
        "pixels": "the same pixels",
        "near": "nearly the same",
        "cropped": "one is cut out of the other",
    }
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
    return _data_url(shrunk(read_image(path.read_bytes()), _THUMBNAIL_PX))


def _data_url(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _relative(path: Path, base: Path) -> str:
    return str(path.relative_to(base) if path.is_relative_to(base) else path)
