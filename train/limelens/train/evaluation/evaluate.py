"""Figures of a checkpoint or of a bundle on a folder of images.

A bundle is run by onnxruntime, as it is served; a checkpoint by torch. Everything else is the
same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle, Task, load_bundle
from limelens.serve.errors import InvalidImageError
from limelens.serve.folders import split_name
from limelens.serve.image import fit, read_image
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import DataError, Dataset, Example, Skipped, targets_of
from limelens.train.data.label_table import Images, find_tables, read_label_tables
from limelens.train.data.listing import read_examples
from limelens.train.evaluation.metrics import WANTED_ACCURACY, figures_of
from limelens.train.evaluation.model import is_bundle

_BATCH: Final = 32


@dataclass(frozen=True)
class Evaluation:
    """What a model says of labelled images.

    Args:
        figures: As `evaluate` returns them.
        examples: The images.
        probabilities: `(N, C)`.
        labels: C names.
        task: The model's.
        macro_labels: Label to coarser category; empty where there are none.
    """

    figures: dict[str, Any]
    examples: tuple[Example, ...]
    probabilities: NDArray[np.floating]
    labels: tuple[str, ...]
    task: Task
    macro_labels: Mapping[str, str]


def evaluate(
    run_or_model: Path,
    data: Path,
    *,
    split: str | None = None,
    images: Images = None,
    wanted_accuracy: float = WANTED_ACCURACY,
) -> dict[str, Any]:
    """Classifies every image of a split and compares with its labels.

    Args:
        run_or_model: A run's folder, a .pt checkpoint, a .onnx bundle or a version's folder.
        data: As for `read_dataset`. Labels are matched by name. The undivided data that the model
            was trained on is divided as it was for training.
        split: None takes test, else val, else all of the data.
        images: The folder of the images that a table names; None finds it.
        wanted_accuracy: Of what is decided, for `at_wanted_accuracy`.

    Returns:
        The figures of `multiclass_metrics` or `multilabel_metrics`, with `split`, `chosen_on`
        (whether epoch and calibration were chosen on these images, so that the figures
        flatter), `model` and `skipped` (path and reason of every file that could not be read).

    Raises:
        DataError: The data has no such split, an unknown label, or no readable image.
        CheckpointError: The checkpoint cannot be used.
        BundleError: The bundle cannot be used.
    """
    return assess(
        run_or_model, data, split=split, images=images, wanted_accuracy=wanted_accuracy
    ).figures


def assess(
    run_or_model: Path,
    data: Path,
    *,
    split: str | None = None,
    images: Images = None,
    wanted_accuracy: float = WANTED_ACCURACY,
) -> Evaluation:
    """As `evaluate`, with what was said of every single image."""
    judge = _judge(run_or_model)
    name, examples, skipped, own = _readable(data, judge.labels, split, judge.source, images)
    # With `val_from_train` the epoch was chosen on a part of train, unless that is this val.
    chosen = name == "val" and (own or not judge.source.config.get("val_from_train", False))
    return _judged(judge, examples, name, chosen, skipped, wanted_accuracy)


def assess_examples(
    run_or_model: Path, examples: Sequence[Example], *, split: str = "val"
) -> Evaluation:
    """As `assess`, on images that were read before.

    Args:
        run_or_model: As for `evaluate`.
        examples: At least one, with targets in the order of the model's labels.
        split: What they are, for the figures.
    """
    return _judged(
        _judge(run_or_model), tuple(examples), split, split == "val", (), WANTED_ACCURACY
    )


@dataclass(frozen=True, eq=False)
class _Judge:
    """A checkpoint or a bundle."""

    where: str
    labels: tuple[str, ...]
    task: Task
    macro_labels: Mapping[str, str]
    label_thresholds: tuple[float, ...]
    source: Source
    predict: Callable[[Sequence[Example]], NDArray[np.floating]]


def _judge(run_or_model: Path) -> _Judge:
    if is_bundle(run_or_model):
        bundle = load_bundle(run_or_model)
        metadata = bundle.metadata
        return _Judge(
            str(run_or_model),
            metadata.labels,
            metadata.task,
            metadata.macro_labels,
            metadata.label_thresholds,
            Source(metadata.data_digest, metadata.card.get("config", {})),
            lambda examples: bundle_probabilities(bundle, examples),
        )
    # Imported here: a bundle is evaluated without torch.
    from limelens.train import checkpoint
    from limelens.train.evaluation.prediction import predict

    loaded = checkpoint.load(run_or_model)
    return _Judge(
        str(run_or_model),
        loaded.labels,
        loaded.task,
        loaded.macro_labels,
        loaded.label_thresholds,
        Source(loaded.data_digest, loaded.config),
        lambda examples: predict(
            loaded.model, examples, loaded.resize, loaded.temperature, loaded.task
        ),
    )


def _judged(
    judge: _Judge,
    examples: tuple[Example, ...],
    split: str,
    chosen: bool,
    skipped: Sequence[Skipped],
    wanted_accuracy: float,
) -> Evaluation:
    if judge.task is Task.MULTICLASS:
        _check_single(examples)
    probabilities = judge.predict(examples)
    figures = figures_of(
        probabilities,
        targets_of(examples, len(judge.labels), judge.task),
        judge.labels,
        judge.task,
        thresholds=judge.label_thresholds,
        macro_labels=judge.macro_labels,
        wanted_accuracy=wanted_accuracy,
    )
    figures |= {
        "split": split,
        "chosen_on": chosen,
        "model": judge.where,
        "skipped": [{"path": str(s.path), "reason": s.reason} for s in skipped],
    }
    return Evaluation(
        figures, examples, probabilities, judge.labels, judge.task, judge.macro_labels
    )


def _check_single(examples: Sequence[Example]) -> None:
    for example in examples:
        if len(example.targets) != 1:
            raise DataError(
                f"{example.path} has {len(example.targets)} labels; the model is multiclass and "
                "expects one each"
            )


def bundle_probabilities(bundle: Bundle, examples: Sequence[Example]) -> NDArray[np.float32]:
    """What a bundle says of examples, `(N, C)`; all must be readable."""
    parts = []
    for start in range(0, len(examples), _BATCH):
        images = [
            fit(read_image(example.path.read_bytes()), bundle.metadata.resize).pixels
            for example in examples[start : start + _BATCH]
        ]
        parts.append(bundle.predict(np.stack(images)))
    return np.concatenate(parts)


def _divided_in_training(data: Path, source: Source, images: Images) -> Dataset | None:
    """The data with the splits that the model was trained with; None if it is other data."""
    seed = source.config.get("seed")
    if not isinstance(seed, int):
        return None
    try:
        task = source.config.get("task")
        dataset = read_dataset(
            data,
            seed=seed,
            images=images,
            task=None if task is None else Task(task),
            val_from_train=source.config.get("val_from_train", False),
        )
    except DataError:
        # A folder of one label, say, is fine for an evaluation and was not trained on.
        return None
    return dataset if dataset.digest == source.digest else None


@dataclass(frozen=True)
class Source:
    """What a model was trained on.

    Args:
        digest: Of the data.
        config: Of the training.
    """

    digest: str
    config: Mapping[str, Any]


def _readable(
    data: Path, labels: Sequence[str], split: str | None, source: Source, images: Images
) -> tuple[str, tuple[Example, ...], list[Skipped], bool]:
    """The split's name, its images, the others, and whether training divided the data."""
    name, examples = read_examples(data, labels, split, images)
    if name == "all":
        own = _divided_in_training(data, source, images)
        if own is not None:
            name = split_name(split or "test") or split or "test"
            if name not in own.splits:
                raise DataError(f"{data} was divided into {sorted(own.splits)}, not {split!r}")
            return name, own.splits[name], list(own.skipped), True
        if split not in (None, "all"):
            raise DataError(
                f"{data} has no splits, and is not what the model was trained on; "
                f"expected a folder {split} in it"
            )
    readable: list[Example] = []
    tables = find_tables(data)
    skipped = list(read_label_tables(tables, images).missing) if tables else []
    for example in examples:
        try:
            read_image(example.path.read_bytes())
        except InvalidImageError as error:
            skipped.append(Skipped(example.path, str(error)))
        else:
            readable.append(example)
    if not readable:
        raise DataError(
            f"{data} has no image that can be read ({name}); expected a folder for each label"
        )
    return name, tuple(readable), skipped, False
