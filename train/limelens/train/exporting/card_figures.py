"""What a model card says of measured figures: tables as Markdown, and plots beside the card.

It computes no metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Task
from limelens.train.evaluation.metrics import confidences


def figures(metrics: Mapping[str, Any]) -> str:
    """Summary, table of labels and of groups, as Markdown; metrics as from `evaluate`."""
    parts = [summary(metrics), _labels(metrics)]
    if "groups" in metrics:
        parts.append(_groups(metrics["groups"]))
    return "\n\n".join(part for part in parts if part)


def summary(metrics: Mapping[str, Any]) -> str:
    """The headline metrics in a sentence, and what a threshold decides in another."""
    if metrics["task"] == Task.MULTILABEL:
        names = {
            "loss": "loss",
            "base_rate_loss": "loss of always predicting the base rates",
            "mean_average_precision": "mean average precision",
            "macro_auc": "macro AUC",
            "micro_f1": "micro F1",
            "macro_f1": "macro F1",
        }
    else:
        names = {
            "accuracy": "accuracy",
            "macro_label_accuracy": "accuracy of superclasses",
            "loss": "loss",
            "ece": "expected calibration error",
        }
    known = [f"{name} {metrics[key]:.4f}" for key, name in names.items() if metrics.get(key)]
    text = ", ".join(known)
    text = f"{text[:1].upper()}{text[1:]}."
    own = metrics.get("at_threshold")
    if own is not None:
        right = "" if own["accuracy"] is None else f", {own['accuracy']:.4f} of those rightly"
        text += (
            f" At its threshold of {own['threshold']:.3f} it decides about {own['coverage']:.1%} "
            f"of the images{right}, and abstains from the rest."
        )
    return text


def weak_groups(groups: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Groups that are worse than the others, and those that are too small to measure."""
    rows = [(name, row) for name, rows in groups["by"].items() for row in rows]
    worse = [
        f"{_words(name)} {row['group']} ({row['accuracy']:.1%} of {row['num_images']}, against "
        f"{row['accuracy_of_others']:.1%} of the others)"
        for name, row in rows
        if row["worse"]
    ]
    small = [f"{_words(name)} {row['group']}" for name, row in rows if row["too_small"]]
    return worse, small


def write_plots(
    folder: Path,
    metrics: Mapping[str, Any],
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
    suffix: str = "",
) -> str:
    """Draws calibration and, for one label an image, accuracy over the share decided.

    Args:
        folder: Of the card; `calibration.png` and `coverage.png` go there.
        metrics: Of the same images.
        probabilities: `(N, C)`.
        targets: As `targets_of` returns them.
        suffix: Ends the stems of the files.

    Returns:
        Markdown that shows them.
    """
    # Imported here: matplotlib takes a second to load.
    from limelens.train.report import plots

    confidence, correct = confidences(probabilities, targets, Task(metrics["task"]))
    drawn = {
        "calibration": ("Share correct over confidence", plots.reliability(confidence, correct))
    }
    if "at_wanted_accuracy" in metrics:
        figure = plots.coverage(confidence, correct, metrics["at_wanted_accuracy"])
        drawn["coverage"] = ("Share correct over the share that is decided", figure)
    for name, (_, figure) in drawn.items():
        plots.save(figure, folder / f"{name}{suffix}.png")
    return "\n".join(f"![{text}]({name}{suffix}.png)" for name, (text, _) in drawn.items())


def _labels(metrics: Mapping[str, Any]) -> str:
    names = {
        "average_precision": "average precision",
        "auc": "auc",
        "threshold": "threshold",
        "abstained": "abstained",
    }
    first = next(iter(metrics["per_class"].values()))
    shown = [key for key in names if key in first]
    header = ["label", "precision", "recall", "F1", "images", *[names[key] for key in shown]]
    rows = [
        [
            label,
            *[f"{row[key]:.3f}" for key in ("precision", "recall", "f1")],
            str(row["support"]),
            *[_cell(row[key]) for key in shown],
        ]
        for label, row in metrics["per_class"].items()
    ]
    return _table(header, rows)


def _groups(groups: Mapping[str, Any]) -> str:
    measure = "a true label in top 3" if groups["measure"] == "top3_accuracy" else "accuracy"
    tables = []
    small = []
    for name, rows in groups["by"].items():
        if all(row["too_small"] for row in rows):
            small.append(_words(name))
            continue
        is_deciding = "coverage" in rows[0]
        header = [_words(name), "images", measure, "95 % interval"]
        header += ["decided", "of these right"] if is_deciding else []
        cells = []
        for row in rows:
            line = [row["group"], str(row["num_images"])]
            if row["too_small"]:
                line += ["too few images", *[""] * (len(header) - 3)]
            else:
                line += [f"{row['accuracy']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}"]
                if is_deciding:
                    line += [_cell(row["coverage"]), _cell(row["decided_accuracy"])]
            cells.append(line)
        tables.append(_table(header, cells))
    if small:
        tables.append(f"There are too few images to say anything by {', '.join(small)}.")
    return "\n\n".join(tables)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: float | int | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
