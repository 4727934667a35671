"""Measures a checkpoint or a bundle on labelled images.

It knows which images are measured and what a model was trained on. It does not know how metrics
are computed (`metrics`) or how a model runs (`model`): torch runs checkpoints, onnxruntime runs
bundles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Task, load_bundle
from limelens.serve.folders import split_name
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import DataError, Dataset, Example, Skipped, targets_of
from limelens.train.data.label_table import Images
from limelens.train.data.listing import read_examples
from limelens.train.data.reading import read_each
from limelens.train.evaluation.faces import FaceChoice, classify_chosen_faces
from limelens.train.evaluation.metrics import WANTED_ACCURACY, compute_metrics
from limelens.train.evaluation.model import Model, from_bundle, is_bundle, load_model


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
        The metrics of `compute_metrics`, and `split`, `chosen_on` (whether epoch and calibration
        were chosen on these images, so that the metrics are optimistic), `model` and `skipped`
        (path and reason of every file that could not be read). With faces also `faces`: which of
        them, and the images in which none was found or none could be judged, which the metrics
        leave out.

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
    name, examples, skipped, is_own = _readable(data, model, split, images)
    # With `val_from_train` the epoch was chosen on a part of train, unless that part is this val.
    chosen = name == "val" and (is_own or not model.config.get("val_from_train", False))
    if faces is None or bundle is None:
        return _assess(run_or_model, model, examples, name, chosen, skipped, wanted_accuracy)
    rows = classify_chosen_faces(bundle, examples, faces)
    if not rows.examples:
        raise DataError(
            f"no face is found, and can be judged, in {len(examples)} images of {data}; "
            "expected photographs of people"
        )
    evaluation = _assess(
        run_or_model, model, rows.examples, name, chosen, skipped, wanted_accuracy,
        rows.probabilities,
    )  # fmt: skip
    evaluation.metrics["faces"] = {
        "which": faces.which,
        "detector": str(faces.detector),
        "not_found": [str(one.path) for one in rows.not_found],
        "not_judged": [str(one.path) for one in rows.not_judged],
    }
    return evaluation


def assess_examples(run_or_model: Path, examples: Sequence[Example]) -> Evaluation:
    """As `assess`, on validation images with targets in the order of the model's labels."""
    return _assess(run_or_model, load_model(run_or_model), tuple(examples), "val", True, ())


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


def _readable(
    data: Path, model: Model, split: str | None, images: Images
) -> tuple[str, tuple[Example, ...], Sequence[Skipped], bool]:
    """The split's name, its readable images, the others, and whether training divided the data."""
    name, examples, missing = read_examples(data, model.labels, split, images)
    if name == "all":
        own = _divided_in_training(data, model, images)
        if own is not None:
            name = split_name(split or "test") or split or "test"
            if name not in own.splits:
                raise DataError(f"{data} was divided into {sorted(own.splits)}, not {split!r}")
            return name, own.splits[name], own.skipped, True
        if split not in (None, "all"):
            raise DataError(
                f"{data} has no splits, and is not what the model was trained on; "
                f"expected a folder {split} in it"
            )
    readable: list[Example] = []
    skipped = list(missing)
    read = read_each((example.path for example in examples), lambda _encoded, _pixels: None)
    for example, problem in zip(examples, read, strict=True):
        if problem is None:
            readable.append(example)
        else:
            skipped.append(problem)
    if not readable:
        raise DataError(
            f"{data} has no image that can be read ({name}); expected a folder for each label"
        )
    return name, tuple(readable), skipped, False


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
