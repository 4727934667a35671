"""Inspects data before training: counts, sizes, shortcuts, duplicates, broken files, labels.

Combines what `image_facts`, `duplicates`, `shortcuts` and `label_errors` find; draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Task
from limelens.train.audit.duplicates import Duplicate, Place, find_duplicates
from limelens.train.audit.image_facts import ImageFacts, read_facts
from limelens.train.audit.label_errors import LabelErrors, find_label_errors
from limelens.train.audit.shortcuts import Shortcut, find_shortcuts
from limelens.train.config import TrainConfig
from limelens.train.data.examples import DataError, Example, Skipped, label_counts, targets_of
from limelens.train.data.label_table import Images
from limelens.train.data.listing import list_data
from limelens.train.evaluation.model import Model, load_model

QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
PLAIN: Final = "colours and gradients"
_MANY: Final = 0.1
_ORDER: Final = ("train", "val", "test", "all")


@dataclass(frozen=True)
class Suspect:
    """An image whose label looks wrong.

    Args:
        place: The image with the labels given.
        suggested: What it seems to be.
        score: Quality of the given label, 0 (surely wrong) to 1.
    """

    place: Place
    suggested: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class Inspection:
    """What was found in data.

    Args:
        data: Where it lies.
        task: Whether an image has one label or any number.
        labels: Sorted.
        counts: Images by split and label.
        num_images: By split; those that can be read.
        quantiles: Of width, height, aspect (width over height) and file size, at `QUANTILES`.
        input_size: Height and width that a network takes.
        num_smaller: Images that are smaller than that in height or width.
        shortcuts: What sizes alone say of the label.
        duplicates: Exact and near.
        unreadable: Files that could not be read, and why.
        unused: Files beside the images that are no images.
        judged_by: Whose vectors the suspects were found with.
        judge_accuracy: Of the classifier on these vectors; None where it could not be trained.
        not_judged: Labels with too few images, or that the judge hardly knows.
        suspects: The most suspicious first.
    """

    data: Path
    task: Task
    labels: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    num_images: Mapping[str, int]
    quantiles: Mapping[str, tuple[float, ...]]
    input_size: tuple[int, int]
    num_smaller: int
    shortcuts: tuple[Shortcut, ...]
    duplicates: tuple[Duplicate, ...]
    unreadable: tuple[Skipped, ...]
    unused: tuple[Path, ...]
    judged_by: str
    judge_accuracy: float | None
    not_judged: tuple[str, ...]
    suspects: tuple[Suspect, ...]

    @property
    def totals(self) -> dict[str, int]:
        """Images by label, over all splits."""
        return {label: sum(own[label] for own in self.counts.values()) for label in self.labels}

    @property
    def rarest(self) -> str:
        """The label of the fewest images."""
        return min(self.labels, key=lambda label: self.totals[label])

    @property
    def commonest(self) -> str:
        """The label of the most images."""
        return max(self.labels, key=lambda label: self.totals[label])

    @property
    def is_judge_weak(self) -> bool:
        """Whether so many labels look wrong that it is rather the judge that is."""
        return len(self.suspects) > _MANY * sum(self.num_images.values())

    def to_json(self) -> dict[str, Any]:
        """What `limelens inspect --json` prints."""
        totals = self.totals

        def place(own: Place) -> dict[str, Any]:
            return {"path": str(own.path), "split": own.split, "labels": list(own.labels)}

        return {
            "data": str(self.data),
            "task": self.task.value,
            "labels": list(self.labels),
            "num_pictures": dict(self.num_images),
            "counts": {split: dict(own) for split, own in self.counts.items()},
            "balance": {
                "rarest": {"label": self.rarest, "num_pictures": totals[self.rarest]},
                "commonest": {"label": self.commonest, "num_pictures": totals[self.commonest]},
            },
            "sizes": {
                "quantiles": list(QUANTILES),
                **{name: list(values) for name, values in self.quantiles.items()},
                "input_size": list(self.input_size),
                "num_smaller": self.num_smaller,
            },
            "shortcuts": [
                {
                    "feature": one.feature,
                    "label": one.label or None,
                    "accuracy": one.accuracy,
                    "majority": one.majority,
                    "telling": one.telling,
                }
                for one in self.shortcuts
            ],
            "duplicates": [
                {
                    "kind": one.kind,
                    "pictures": [place(one.first), place(one.second)],
                    "cross_splits": one.cross_splits,
                    "differ_in_label": one.differ_in_label,
                }
                for one in self.duplicates
            ],
            "unreadable": [
                {"path": str(one.path), "reason": one.reason} for one in self.unreadable
            ],
            "unused": [str(path) for path in self.unused],
            "suspicious": {
                "judged_by": self.judged_by,
                "accuracy": self.judge_accuracy,
                "not_judged": list(self.not_judged),
                "pictures": [
                    {**place(one.place), "suggested": list(one.suggested), "score": one.score}
                    for one in self.suspects
                ],
            },
        }


def inspect(
    data: Path, *, images: Images = None, run_or_model: Path | None = None, seed: int = 0
) -> Inspection:
    """Looks through data, all splits together.

    Args:
        data: As for `read_dataset`; here any share of it may be unreadable.
        images: The folder of the images that a table names; None finds it.
        run_or_model: Whose embeddings labels are judged by; it may know other labels. None takes
            plain colours and gradients.
        seed: Of the folds.

    Raises:
        DataError: The data is missing or has no image that can be read.
        CheckpointError: The checkpoint cannot be used.
        BundleError: The bundle cannot be used.
    """
    model = load_model(run_or_model) if run_or_model else None
    listing = list_data(data, images)
    listed = [
        (split, example)
        for split in sorted(listing.splits, key=_ORDER.index)
        for example in listing.splits[split]
    ]
    read = list(read_facts([example.path for _, example in listed], features=model is None))
    readable = [
        (split, example, fact)
        for (split, example), fact in zip(listed, read, strict=True)
        if isinstance(fact, ImageFacts)
    ]
    skipped = tuple(fact for fact in read if isinstance(fact, Skipped))
    if not readable:
        first = skipped[0] if skipped else None
        raise DataError(
            f"{data} has no image that can be read"
            + (f"; the first is {first.path}: {first.reason}" if first else "")
        )
    examples = [example for _, example, _ in readable]
    facts = [fact for _, _, fact in readable]
    places = [
        Place(example.path, split, tuple(listing.labels[target] for target in example.targets))
        for split, example, _ in readable
    ]
    sizes = _sizes(facts)
    resize = model.resize if model else TrainConfig().resize
    size = (resize.height, resize.width)
    errors = find_label_errors(
        _vectors(model, examples, facts),
        [example.targets for example in examples],
        len(listing.labels),
        multilabel=listing.task is Task.MULTILABEL,
        seed=seed,
    )
    by_split = {
        split: [example for own, example, _ in readable if own == split] for split in listing.splits
    }
    return Inspection(
        data=data,
        task=listing.task,
        labels=listing.labels,
        counts={
            split: dict(
                zip(listing.labels, label_counts(own, len(listing.labels)).tolist(), strict=True)
            )
            for split, own in sorted(by_split.items(), key=lambda item: _ORDER.index(item[0]))
        },
        num_images={split: len(by_split[split]) for split in sorted(by_split, key=_ORDER.index)},
        quantiles={
            name: tuple(np.quantile(values, QUANTILES).tolist()) for name, values in sizes.items()
        },
        input_size=size,
        num_smaller=sum(fact.height < size[0] or fact.width < size[1] for fact in facts),
        shortcuts=find_shortcuts(
            sizes, targets_of(examples, len(listing.labels), listing.task), listing.labels, seed
        ),
        duplicates=find_duplicates(places, facts),
        unreadable=(*listing.skipped, *skipped),
        unused=tuple(one.path for one in listing.others),
        judged_by=model.name if model else PLAIN,
        judge_accuracy=errors.accuracy,
        not_judged=tuple(listing.labels[index] for index in errors.left_out),
        suspects=_suspects(errors, places, listing.labels),
    )


def _sizes(facts: list[ImageFacts]) -> dict[str, NDArray[np.float64]]:
    width = np.array([fact.width for fact in facts], dtype=np.float64)
    height = np.array([fact.height for fact in facts], dtype=np.float64)
    return {
        "width": width,
        "height": height,
        "aspect": width / height,
        "file size": np.array([fact.size_bytes for fact in facts], dtype=np.float64),
    }


def _vectors(
    model: Model | None, examples: list[Example], facts: list[ImageFacts]
) -> NDArray[np.float32]:
    if model is not None:
        return model.embeddings(examples)
    return np.stack([fact.features for fact in facts if fact.features is not None])


def _suspects(
    errors: LabelErrors, places: list[Place], labels: tuple[str, ...]
) -> tuple[Suspect, ...]:
    return tuple(
        Suspect(places[error.index], tuple(labels[index] for index in error.suggested), error.score)
        for error in errors.errors
    )
