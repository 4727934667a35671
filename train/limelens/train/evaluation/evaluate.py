"""Measures a checkpoint or a bundle on labelled images.

It knows which images are measured and what a model was trained on. It does not know how metrics
are computed (`metrics`) or how a model runs (`model`): torch runs checkpoints, onnxruntime runs
bundles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Task, load_bundle
from limelens.serve.folders import split_name
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import DataError, Dataset, Example, Skipped, targets_of
from limelens.train.data.groups_table import read_groupings
from limelens.train.data.label_table import Images
from limelens.train.data.listing import read_examples
from limelens.train.evaluation.faces import FaceChoice, classify_chosen_faces
from limelens.train.evaluation.groups import (
    Appearance,
    group_metrics,
    measured_groupings,
    read_appearances,
)
from limelens.train.evaluation.metrics import WANTED_ACCURACY, compute_metrics, is_decided
from limelens.train.evaluation.model import Model, from_bundle, load_model
from limelens.train.runs import is_bundle


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model's results on labelled images: metrics as from `evaluate`, probabilities `(N, C)`."""

    metrics: dict[str, Any]
    examples: tuple[Example, ...]
    probabilities: NDArray[np.floating]
    model: Model


def evaluate(
    run_or_model: Path,
    data: Path,
    *,
    split: str | None = None,
    images: Images = None,
    wanted_accuracy: float = WANTED_ACCURACY,
    faces: FaceChoice | None = None,
) -> dict[str, Any]:
    """Classifies every image of a split and compares the results with its labels.

    Args:
        run_or_model: A run's folder, a .pt checkpoint, a .onnx bundle or a version's folder.
        data: As for `read_dataset`. Labels are matched by name. Data without splits that the
            model was trained on is divided as it was for training.
        split: None uses test, else val, else all of the data.
        images: The folder of the images that a table names; None finds it.
        wanted_accuracy: Among decided images, for `at_wanted_accuracy`.
        faces: The images are photographs, and a bundle is measured on one face of each; None
            measures on whole images.

    Returns:
        The metrics of `compute_metrics`, and `groups` (as `metrics_by_group`), `split`,
        `chosen_on` (whether epoch and calibration were chosen on these images, if they are those
        of the training, so that the metrics are optimistic), `model` and `skipped` (path and
        reason of every file that could not be read). With faces also `faces`: which of them, and
        the images in which none was found or none could be judged, which the metrics leave out.

    Raises:
        DataError: The data has no such split, an unknown label, or no readable image.
        CheckpointError: The checkpoint cannot be used.
        BundleError: The bundle cannot be used.
    """
    evaluation = assess(
        run_or_model, data, split=split, images=images, wanted_accuracy=wanted_accuracy, faces=faces
    )
    return evaluation.metrics


def assess(
    run_or_model: Path,
    data: Path,
    *,
    split: str | None = None,
    images: Images = None,
    wanted_accuracy: float = WANTED_ACCURACY,
    faces: FaceChoice | None = None,
) -> Evaluation:
    """As `evaluate`, with the probabilities of every image, or of one face in it."""
    if faces is not None and not is_bundle(run_or_model):
        raise DataError(f"{run_or_model} is no bundle; faces are classified by bundles: export it")
    bundle = None if faces is None else load_bundle(run_or_model)
    model = load_model(run_or_model) if bundle is None else from_bundle(bundle)
    found = _readable(data, model, split, images)
    # With `val_from_train` the epoch was chosen on a part of train, unless that part is this val.
    chosen = found.split == "val" and (found.is_own or not model.config.get("val_from_train"))
    if faces is None or bundle is None:
        evaluation = _assess(
            run_or_model,
            model,
            found.examples,
            found.split,
            chosen,
            found.skipped,
            wanted_accuracy,
        )
        return _by_group(evaluation, data, found.appearances)
    rows = classify_chosen_faces(bundle, found.examples, faces)
    if not rows.examples:
        raise DataError(
            f"no face is found, and can be judged, in {len(found.examples)} images of {data}; "
            "expected photographs of people"
        )
    evaluation = _assess(
        run_or_model, model, rows.examples, found.split, chosen, found.skipped, wanted_accuracy,
        rows.probabilities,
    )  # fmt: skip
    evaluation.metrics["faces"] = {
        "which": faces.which,
        "detector": str(faces.detector),
        "not_found": [str(one.path) for one in rows.not_found],
        "not_judged": [str(one.path) for one in rows.not_judged],
    }
    return _by_group(evaluation, data, found.appearances)


def assess_examples(
    run_or_model: Path, examples: Sequence[Example], data: Path | None = None
) -> Evaluation:
    """As `assess`, on validation images with targets in the order of the model's labels."""
    model = load_model(run_or_model)
    evaluation = _assess(run_or_model, model, tuple(examples), "val", True, ())
    return _by_group(evaluation, data)


def metrics_by_group(
    model: Model,
    examples: Sequence[Example],
    probabilities: NDArray[np.floating],
    data: Path | None,
    appearances: Mapping[Path, Appearance] | None = None,
) -> dict[str, Any]:
    """How accurate a model is by size, brightness and shape of the images, and by `groups.csv`.

    Args:
        model: Whose labels the targets are.
        examples: Readable images; those of a multilabel model without a label are left out.
        probabilities: Of the same, `(N, C)`.
        data: The folder, or the table in the folder, that may have a `groups.csv`; None has none.
        appearances: Those of the images, if they are known; None reads them again.

    Returns:
        `measure`, `accuracy` or `top3_accuracy` (multilabel), and `by`, as `group_metrics`.

    Raises:
        DataError: `groups.csv` cannot be read.
    """
    is_multilabel = model.task is Task.MULTILABEL
    rows = [i for i, example in enumerate(examples) if example.targets]
    paths = [examples[i].path for i in rows]
    probabilities = probabilities[rows]
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, : 3 if is_multilabel else 1]
    correct = np.array(
        [not {*examples[i].targets}.isdisjoint(best) for i, best in zip(rows, top, strict=True)],
        dtype=np.bool_,
    )
    found = (
        read_appearances(paths) if appearances is None else [appearances[path] for path in paths]
    )
    groupings = measured_groupings(found)
    if data is not None:
        groupings |= read_groupings(data, paths)
    decided = is_decided(probabilities, model.threshold) if model.threshold > 0 else None
    return {
        "measure": "top3_accuracy" if is_multilabel else "accuracy",
        "by": group_metrics(groupings, correct, decided),
    }


def _by_group(
    evaluation: Evaluation,
    data: Path | None,
    appearances: Mapping[Path, Appearance] | None = None,
) -> Evaluation:
    evaluation.metrics["groups"] = metrics_by_group(
        evaluation.model, evaluation.examples, evaluation.probabilities, data, appearances
    )
    return evaluation


def _assess(
    run_or_model: Path,
    model: Model,
    examples: tuple[Example, ...],
    split: str,
    chosen_on: bool,
    skipped: Sequence[Skipped],
    wanted_accuracy: float = WANTED_ACCURACY,
    probabilities: NDArray[np.floating] | None = None,
) -> Evaluation:
    for example in examples if model.task is Task.MULTICLASS else ():
        if len(example.targets) != 1:
            raise DataError(
                f"{example.path} has {len(example.targets)} labels; the model is multiclass and "
                "expects one each"
            )
    if probabilities is None:
        probabilities = model.probabilities(examples)
    metrics = compute_metrics(
        probabilities,
        targets_of(examples, len(model.labels), model.task),
        model.labels,
        model.task,
        thresholds=model.label_thresholds,
        threshold=model.threshold,
        macro_labels=model.macro_labels,
        wanted_accuracy=wanted_accuracy,
    )
    metrics |= {
        "split": split,
        "chosen_on": chosen_on,
        "model": str(run_or_model),
        "skipped": [{"path": str(one.path), "reason": one.reason} for one in skipped],
    }
    return Evaluation(metrics, examples, probabilities, model)


@dataclass(frozen=True, eq=False)
class _Readable:
    """A split's name, its readable images and how they look, and the others.

    `is_own` says whether training divided the data.
    """

    split: str
    examples: tuple[Example, ...]
    appearances: Mapping[Path, Appearance]
    skipped: Sequence[Skipped]
    is_own: bool


def _readable(data: Path, model: Model, split: str | None, images: Images) -> _Readable:
    name, examples, missing = read_examples(data, model.labels, split, images)
    skipped: Sequence[Skipped] = missing
    own = _divided_in_training(data, model, images) if name == "all" else None
    if own is not None:
        name = split_name(split or "test") or split or "test"
        if name not in own.splits:
            raise DataError(f"{data} was divided into {sorted(own.splits)}, not {split!r}")
        examples, skipped = own.splits[name], own.skipped
    elif name == "all" and split not in (None, "all"):
        raise DataError(
            f"{data} has no splits, and is not what the model was trained on; "
            f"expected a folder {split} in it"
        )
    readable: list[Example] = []
    appearances: dict[Path, Appearance] = {}
    unreadable: list[Skipped] = []
    found = read_appearances(example.path for example in examples)
    for example, one in zip(examples, found, strict=True):
        if isinstance(one, Skipped):
            unreadable.append(one)
        else:
            readable.append(example)
            appearances[example.path] = one
    if not readable:
        raise DataError(
            f"{data} has no image that can be read ({name}); expected a folder for each label"
        )
    return _Readable(name, tuple(readable), appearances, [*skipped, *unreadable], own is not None)


def _divided_in_training(data: Path, model: Model, images: Images) -> Dataset | None:
    """The data with the splits from the model's training; None if it is other data."""
    seed, task = model.config.get("seed"), model.config.get("task")
    if not isinstance(seed, int):
        return None
    try:
        dataset = read_dataset(
            data,
            seed=seed,
            images=images,
            task=None if task is None else Task(task),
            val_from_train=model.config.get("val_from_train", False),
        )
    except DataError:
        # Data that cannot be trained on, such as a folder of one label, can still be evaluated.
        return None
    return dataset if dataset.digest == model.data_digest else None
