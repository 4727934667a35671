"""A csv of what a model says of every single image.

It writes down an evaluation and computes no figures.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Task
from limelens.serve.files import write_whole
from limelens.train.data.label_table import find_tables
from limelens.train.data.tables.lines import read_lines
from limelens.train.evaluation.evaluate import Evaluation

_MOST_PROBABLE: Final = 5


def write_predictions(evaluation: Evaluation, path: Path, *, data: Path | None = None) -> None:
    """Writes a row for each image.

    The columns are `id`, `label` (multilabel: joined by `|`), `predicted` likewise, `label_1`,
    `probability_1` and so on for the five most probable labels, `macro_label` of the prediction
    where there are macro labels, and `correct` (multilabel: exactly the true labels).

    Args:
        evaluation: What was said.
        path: The csv to write, in UTF-8.
        data: Where the images were found. A table's images are named as the table names them,
            others by their path in this folder; None takes the path as it is.
    """
    labels = np.array(evaluation.labels)
    probabilities = evaluation.probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :_MOST_PROBABLE]
    header = ["id", "label", "predicted"]
    for rank in range(1, order.shape[1] + 1):
        header += [f"label_{rank}", f"probability_{rank}"]
    if evaluation.macro_labels:
        header.append("macro_label")
    header.append("correct")
    table_cells = _table_cells(data)
    with io.StringIO(newline="") as table:
        writer = csv.writer(table)
        writer.writerow(header)
        for example, row, best, found in zip(
            evaluation.examples, probabilities, order, predicted_labels(evaluation), strict=True
        ):
            cells = [
                _identity(example.path, data, table_cells),
                "|".join(labels[list(example.targets)]),
                "|".join(labels[found]),
            ]
            for index in best:
                cells += [labels[index], f"{row[index]:.6f}"]
            if evaluation.macro_labels:
                coarse = dict.fromkeys(evaluation.macro_labels[label] for label in labels[found])
                cells.append("|".join(coarse))
            correct = tuple(found.tolist()) == example.targets
            writer.writerow([*cells, "true" if correct else "false"])
        write_whole(path, table.getvalue())


def predicted_labels(evaluation: Evaluation) -> list[NDArray[np.intp]]:
    """The labels decided for each image: the most probable, or all over their thresholds."""
    probabilities = evaluation.probabilities
    if evaluation.task is Task.MULTICLASS:
        return list(probabilities.argmax(axis=1)[:, np.newaxis])
    return [np.flatnonzero(row) for row in probabilities >= label_thresholds(evaluation)]


def label_thresholds(evaluation: Evaluation) -> NDArray[np.float64]:
    """Of a multilabel model, `(C,)`."""
    rows = evaluation.figures["per_class"]
    return np.array([rows[label]["threshold"] for label in evaluation.labels])


def _identity(path: Path, data: Path | None, table_cells: set[str]) -> str:
    # The longest name that the table has: ids may lie in folders and leave out the suffix.
    for start in range(len(path.parts)) if table_cells else ():
        name = Path(*path.parts[start:])
        for candidate in (name.as_posix(), name.with_suffix("").as_posix()):
            if candidate in table_cells:
                return candidate
    if data is not None and path.is_relative_to(data):
        return path.relative_to(data).as_posix()
    return path.as_posix()


def _table_cells(data: Path | None) -> set[str]:
    cells: set[str] = set()
    for table in find_tables(data).values() if data else ():
        cells.update(cell.strip() for _, row in read_lines(table) for cell in row)
    return cells
