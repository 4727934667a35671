"""Lists the images of label folders or of a label table, with their labels and splits.

Reads no image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from limelens.serve.bundle import Task
from limelens.serve.folders import label_name, look_alikes, split_name
from limelens.serve.wording import counted
from limelens.train.data.examples import DataError, Example, Skipped
from limelens.train.data.label_folders import LabelFolders, check_labels, read_label_folders
from limelens.train.data.label_table import (
    Images,
    LabelTable,
    Rows,
    find_tables,
    read_label_tables,
)
from limelens.train.data.tables.table import TableOptions

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """The content that data claims to have, before an image is read.

    Args:
        splits: Examples by split; `all` if the data is not divided.
        skipped: Files known to be missing.
        others: Files in label folders that are no images by their names.
    """

    labels: tuple[str, ...]
    task: Task
    splits: Mapping[str, tuple[Example, ...]]
    skipped: tuple[Skipped, ...] = ()
    others: tuple[Skipped, ...] = ()


def list_data(data: Path, images: Images = None, task: Task | None = None) -> Listing:
    """Lists all images and their labels; arguments as for `read_dataset`.

    Raises:
        DataError: The data is missing or cannot be trained on, or the task is multiclass and an
            image has not exactly one label.
    """
    found = _read(data, images)
    if "all" in found.rows and len(found.rows) > 1:
        raise DataError(f"{data} names the split of only some images; expected all or none")
    if not {"train", "all"} & {*found.rows}:
        raise DataError(f"{data} has the splits {sorted(found.rows)}; expected train among them")
    others: tuple[Skipped, ...] = ()
    if isinstance(found, LabelTable):
        labels, own_task = found.labels, found.task
        if len(labels) < 2:
            raise DataError(
                f"{data} has {counted(len(labels), 'label')} {list(labels)}; expected at least two"
            )
    else:
        own_task, others = Task.MULTICLASS, found.others
        labels = tuple(sorted(found.by_split["train" if "train" in found.by_split else "all"]))
        check_labels(data, labels, found.by_split)
    for group in look_alikes(labels):
        _log.warning(
            f"the labels {', '.join(map(repr, group))} differ only in case, blanks or hyphens; "
            "rename them if they are one"
        )
    splits = {split: _examples(rows, labels) for split, rows in found.rows.items()}
    if task is Task.MULTICLASS is not own_task:
        for example in (one for examples in splits.values() for one in examples):
            if len(example.targets) != 1:
                raise DataError(
                    f"{example.path} has {len(example.targets)} labels in {data}; "
                    "multiclass expects one each"
                )
    return Listing(labels, task or own_task, splits, found.missing, others)


def find_split(
    data: Path, split: str | None = None, images: Images = None
) -> tuple[str, Rows, tuple[Skipped, ...]]:
    """Finds one split; arguments as for `read_examples`.

    Returns:
        Its name, its images with their labels, and the data's files that are missing.

    Raises:
        DataError: The split is missing, or the data cannot be read.
    """
    found = _read(data, images)
    by_split = found.rows
    if "all" in by_split:
        return "all", by_split["all"], found.missing
    name = split or next((s for s in ("test", "val", "train") if s in by_split), "")
    name = split_name(name) or name
    if name not in by_split:
        raise DataError(f"{data} has the splits {sorted(by_split)}; expected {split!r}")
    return name, by_split[name], found.missing


def read_examples(
    data: Path, labels: Sequence[str], split: str | None = None, images: Images = None
) -> tuple[str, tuple[Example, ...], tuple[Skipped, ...]]:
    """Lists the images of one split for an evaluation.

    Args:
        data: As for `read_dataset`.
        labels: The model's; the data's are matched by name.
        split: `train`, `val` or `test`. None takes test, else val. Data without splits is used
            whole, for any split.
        images: As for `read_dataset`.

    Returns:
        The split's name (`all` for data without splits), its examples, and the files of any split
        that are missing or cannot be reached.

    Raises:
        DataError: The split is missing, or the model does not know a label.
    """
    name, rows, missing = find_split(data, split, images)
    # Models trained before labels had one Unicode form may have another one.
    known = [label_name(label) for label in labels]
    unknown = sorted({label for _, own in rows for label in own} - {*known})
    if unknown:
        raise DataError(
            f"{data} has the label {unknown[0]!r}, which the model does not know; "
            f"it knows {', '.join(labels)}"
        )
    return name, _examples(rows, known), missing


def _read(data: Path, images: Images) -> LabelTable | LabelFolders:
    tables = find_tables(data)
    if tables:
        table = read_label_tables(tables, images)
        for note in table.notes:
            _log.info(note)
        return table
    if isinstance(images, TableOptions) and images != TableOptions(images.images):
        raise DataError(
            f"{data} has no table; --image-column, --label-column, --columns and --separator are "
            "for data in a csv or tsv file"
        )
    return read_label_folders(data)


def _examples(rows: Rows, labels: Sequence[str]) -> tuple[Example, ...]:
    index = {label: number for number, label in enumerate(labels)}
    return tuple(Example(path, tuple(sorted(index[label] for label in own))) for path, own in rows)
