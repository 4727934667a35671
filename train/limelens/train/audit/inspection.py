"""Inspects data before training: counts, sizes, shortcuts, duplicates, broken files, labels.

Combines what `image_facts`, `duplicates`, `shortcuts` and `label_errors` find; draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from limelens.serve.bundle import Task
from limelens.train.audit.duplicates import Duplicate, ImageLocation, find_duplicates
from limelens.train.audit.image_facts import ImageFacts, read_facts
from limelens.train.audit.label_errors import find_label_errors
from limelens.train.audit.shortcuts import Shortcut, find_shortcuts
from limelens.train.config import TrainConfig
from limelens.train.data.examples import DataError, Example, Skipped, label_counts, targets_of
from limelens.train.data.label_table import Images
from limelens.train.data.listing import list_data
from limelens.train.evaluation.model import load_model

QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
PLAIN: Final = "colours and gradients"
_MANY: Final = 0.1
_ORDER: Final = ("train", "val", "test", "all")


class Suspect(NamedTuple):
    """An image whose label looks wrong."""

    place: ImageLocation
    suggested: tuple[str, ...]
    """What it seems to be."""
    score: float
    """Quality of the given label, 0 (surely wrong) to 1."""


@dataclass(frozen=True)
class Inspection:
    """The findings of an inspection.

    Args:
        counts: Images by split and label.
        num_images: Readable ones by split.
        quantiles: Of width, height, aspect (width over height) and file size, at `QUANTILES`.
        input_size: Height and width of a network's input.
        num_smaller: Images smaller than that in height or width.
        unused: Files that are no images.
        checked_by: The source of the feature vectors.
        judge_accuracy: Of the classifier on these vectors; None if it could not be trained.
        not_checked: Labels with too few images, or that the classifier cannot predict.
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
    checked_by: str
    judge_accuracy: float | None
    not_checked: tuple[str, ...]
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
        """Whether too many labels look wrong, so that the classifier is more likely at fault."""
        return len(self.suspects) > _MANY * sum(self.num_images.values())

    def to_json(self) -> dict[str, Any]:
        """What `limelens inspect --json` prints."""
        totals = self.totals

        def place(own: ImageLocation) -> dict[str, Any]:
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
            "shortcuts": [{**asdict(one), "label": one.label or None} for one in self.shortcuts],
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
                "judged_by": self.checked_by,
                "accuracy": self.judge_accuracy,
                "not_judged": list(self.not_checked),
                "pictures": [
                    {**place(one.place), "suggested": list(one.suggested), "score": one.score}
                    for one in self.suspects
                ],
            },
        }


def inspect(
    data: Path, *, images: Images = None, run_or_model: Path | None = None, seed: int = 0
) -> Inspection:
    """Inspects data, all splits together.

    Args:
        data: As for `read_dataset`, but any share may be unreadable.
        images: As for `read_dataset`.
        run_or_model: Its embeddings are used to judge the labels; its own labels may differ. None
            uses plain colours and gradients.
        seed: The seed of the folds.

    Raises:
        DataError: The data is missing or has no image that can be read.
        CheckpointError: The checkpoint cannot be used.
        BundleError: The bundle cannot be used.
    """
    model = load_model(run_or_model) if run_or_model else None
    listing = list_data(data, images)
    labels = listing.labels
    order = sorted(listing.splits, key=_ORDER.index)
    listed = [(split, example) for split in order for example in listing.splits[split]]
    read = list(read_facts([example.path for _, example in listed], features=model is None))
    skipped = [fact for fact in read if isinstance(fact, Skipped)]
    by_split: dict[str, list[Example]] = {split: [] for split in order}
    places, facts = [], []
    for (split, example), fact in zip(listed, read, strict=True):
        if isinstance(fact, ImageFacts):
            by_split[split].append(example)
            places.append(
                ImageLocation(example.path, split, tuple(labels[one] for one in example.targets))
            )
            facts.append(fact)
    if not facts:
        first = f"; the first is {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise DataError(f"{data} has no image that can be read{first}")
    examples = [example for own in by_split.values() for example in own]
    width, height, size_bytes = np.array(
        [(fact.width, fact.height, fact.size_bytes) for fact in facts], dtype=np.float64
    ).T
    sizes = {"width": width, "height": height, "aspect": width / height, "file size": size_bytes}
    targets = targets_of(examples, len(labels), listing.task)
    resize = model.resize if model else TrainConfig().resize
    errors = find_label_errors(
        model.embeddings(examples) if model else np.stack([fact.features for fact in facts]),
        targets,
        len(labels),
        seed,
    )
    return Inspection(
        data=data,
        task=listing.task,
        labels=labels,
        counts={
            split: dict(zip(labels, label_counts(own, len(labels)).tolist(), strict=True))
            for split, own in by_split.items()
        },
        num_images={split: len(own) for split, own in by_split.items()},
        quantiles={
            name: tuple(np.quantile(values, QUANTILES).tolist()) for name, values in sizes.items()
        },
        input_size=(resize.height, resize.width),
        num_smaller=int(((height < resize.height) | (width < resize.width)).sum()),
        shortcuts=find_shortcuts(sizes, targets, labels, seed),
        duplicates=find_duplicates(places, facts),
        unreadable=(*listing.skipped, *skipped),
        unused=tuple(one.path for one in listing.others),
        checked_by=model.name if model else PLAIN,
        judge_accuracy=errors.accuracy,
        not_checked=tuple(labels[index] for index in errors.left_out),
        suspects=tuple(
            Suspect(places[one.index], tuple(labels[index] for index in one.suggested), one.score)
            for one in errors.errors
        ),
    )
