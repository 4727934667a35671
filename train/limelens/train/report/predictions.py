"""A csv of a model's prediction for every single image.

It computes no metrics.
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
from limelens.train.data.tables.table import read_lines
from limelens.train.evaluation.evaluate import Evaluation

_NUM_PROBABLE: Final = 5


def write_predictions(evaluation: Evaluation, path: Path, *, data: Path | None = None) -> None:
    """Writes a row for each image.

    The columns are `id`, `label` and `predicted` (multilabel: joined by `|`), `label_1`,
    `probability_1` and so on for the five most probable labels, `macro_label` of the prediction
    if there are superclasses, and `correct` (multilabel: exactly the true labels are predicted).
    Images are named as in the tables of `data`, else by their path in it, else by their whole path.
    """
    labels = np.array(evaluation.model.labels)
    macro_labels = evaluation.model.macro_labels
    probabilities = evaluation.probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :_NUM_PROBABLE]
    header = ["id", "label", "predicted"]
    for rank in range(1, order.shape[1] + 1):
        header += [f"label_{rank}", f"probability_{rank}"]
    if macro_labels:
        header.append("macro_label")
    names = _table_cells(data)
    with io.StringIO(newline="") as table:
        writer = csv.writer(table)
        writer.writerow([*header, "correct"])
        for example, row, best, predicted in zip(
            evaluation.examples, probabilities, order, predicted_labels(evaluation), strict=True
        ):
            cells = [
                _id(example.path, data, names),
                "|".join(labels[list(example.targets)]),
                "|".join(labels[predicted]),
            ]
            for index in best:
                cells += [labels[index], f"{row[index]:.6f}"]
            if macro_labels:
                coarse = dict.fromkeys(macro_labels[label] for label in labels[predicted])
                cells.append("|".join(coarse))
            correct = tuple(predicted.tolist()) == example.targets
            writer.writerow([*cells, "true" if correct else "false"])
        write_whole(path, table.getvalue())


def predicted_labels(evaluation: Evaluation) -> list[NDArray[np.intp]]:
    """Indices of the labels predicted for each image: the most probable, or all over thresholds."""
    probabilities = evaluation.probabilities
    if evaluation.model.task is Task.MULTICLASS:
        return list(probabilities.argmax(axis=1)[:, np.newaxis])
    return [np.flatnonzero(row) for row in probabilities >= evaluation.model.label_thresholds]


def _id(path: Path, data: Path | None, names: set[str]) -> str:
    # The longest match: a table's ids may include folders and leave out the suffix.
    for start in range(len(path.parts)) if names else ():
        name = Path(*path.parts[start:])
        for candidate in (name.as_posix(), name.with_suffix("").as_posix()):
            if candidate in names:
                return candidate
    if data is not None and path.is_relative_to(data):
        return path.relative_to(data).as_posix()
    return path.as_posix()


def _table_cells(data: Path | None) -> set[str]:
    """All cells of the data's tables, among them the images' names."""
    cells: set[str] = set()
    for table in find_tables(data).values() if data else ():
        cells.update(cell.strip() for _, row in read_lines(table) for cell in row)
    return cells
