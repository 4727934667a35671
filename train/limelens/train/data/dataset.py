"""Reads data for a training run: finds broken images and divides the rest into splits.

Knows nothing of networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Task
from limelens.train.data.examples import DataError, Dataset, Example, Skipped
from limelens.train.data.label_table import Images, read_macro_labels
from limelens.train.data.listing import Listing, list_data
from limelens.train.data.near_duplicates import (
    PerceptualHash,
    near_duplicate_groups,
    perceptual_hash,
)
from limelens.train.data.reading import read_each
from limelens.train.data.splitting import SHARES, crossing, divide


def read_dataset(
    data: Path,
    *,
    seed: int = 0,
    max_skipped_share: float = 0.05,
    images: Images = None,
    macro: Path | None = None,
    task: Task | None = None,
    val_from_train: bool = False,
) -> Dataset:
    """Reads the data for a training run.

    Args:
        data: Label folders, or split folders (`train`, `val`, `test` and other names of
            `folders.split_name`) of label folders, or a table of labels (`label_table`) or a folder
            that holds one. Without splits, examples are divided 80:10:10 by label; with `train`
            alone, a tenth of it becomes `val`. Near duplicates stay on one side.
        seed: The division's seed.
        max_skipped_share: Data with a larger share of unreadable images is refused. Files
            of other kinds are listed as skipped and do not count.
        images: The folder of the images that a table names, or all options of the table; None
            finds it.
        macro: A table of label and superclass; None takes the data's `macro.csv` if it exists.
        task: None takes multilabel if a table has lists or one-hot columns, else multiclass.
        val_from_train: Take a tenth of train as `val`, and leave the data's own val unused in
            training: it becomes `test` if there is none.

    Returns:
        Training and validation examples at least.

    Raises:
        DataError: The data is missing, has fewer than two labels, an empty label, or too many
            unreadable files, or the task is multiclass and an image has not exactly one label.
    """
    listing = list_data(data, images, task)
    labels = listing.labels
    readable, skipped, hashes, shapes, digest = _read_all(data, listing)
    num_found = sum(len(examples) for examples in listing.splits.values()) + len(listing.skipped)
    skipped = [*listing.skipped, *skipped]
    if len(skipped) > max_skipped_share * num_found:
        first = skipped[0]
        raise DataError(
            f"{len(skipped)} of {num_found} files in {data} cannot be read, more than "
            f"{max_skipped_share:.0%}; the first is {first.path}: {first.reason}"
        )

    def divided(examples: list[Example], shares: Mapping[str, float]) -> dict[str, list[Example]]:
        groups = near_duplicate_groups([hashes[example.path] for example in examples])
        return divide(examples, groups, shares, seed)

    if "all" in readable:
        splits = divided(readable["all"], SHARES)
    elif "val" in readable and not val_from_train:
        splits = readable
    else:
        own = {"test": readable["val"]} if "val" in readable else {}
        splits = {**own, **readable, **divided(readable["train"], {"train": 0.9, "val": 0.1})}
    beside = (data if data.is_dir() else data.parent) / "macro.csv"
    macro = macro or (beside if beside.is_file() else None)
    dataset = Dataset(
        labels,
        {name: tuple(examples) for name, examples in splits.items()},
        (*skipped, *listing.others),
        digest,
        crossing(splits, hashes),
        listing.task,
        read_macro_labels(macro, labels) if macro else {},
        _median_shape([shapes[example.path] for example in splits["train"]]),
    )
    # If images have several labels, rare ones may be missing from a small validation split.
    for split in ("train", "val") if listing.task is Task.MULTICLASS else ("train",):
        for label, count in dataset.counts(split).items():
            if count == 0:
                raise DataError(
                    f"label {label!r} of {data} has no readable image for {split}; "
                    "add some or remove the label"
                )
    if not dataset.splits["val"]:
        raise DataError(f"{data} has no readable image for val; add some")
    return dataset


def _median_shape(shapes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Height and width of an image as oblong as half of the others, and as large."""
    if not shapes:
        return None
    heights, widths = np.array(shapes, dtype=np.float64).T
    ratio, area = np.median(heights / widths), np.median(heights * widths)
    return round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))


def _read_all(
    data: Path, listing: Listing
) -> tuple[
    dict[str, list[Example]],
    list[Skipped],
    dict[Path, PerceptualHash],
    dict[Path, tuple[int, int]],
    str,
]:
    """Reads every file once: readable examples, skipped files, hashes, shapes, the digest."""
    digest = hashlib.sha256("\0".join(listing.labels).encode())
    readable: dict[str, list[Example]] = {}
    skipped: list[Skipped] = []
    hashes: dict[Path, PerceptualHash] = {}
    shapes: dict[Path, tuple[int, int]] = {}
    for split, examples in listing.splits.items():
        readable[split] = []
        found = read_each(
            (example.path for example in examples),
            _described,
        )
        for example, one in zip(examples, found, strict=True):
            if isinstance(one, Skipped):
                skipped.append(one)
                continue
            content, hashes[example.path], shapes[example.path] = one
            targets = ",".join(map(str, example.targets))
            digest.update(f"{split}\0{targets}\0{content}\n".encode())
            readable[split].append(example)
    if not hashes:
        raise DataError(f"no image in {data} can be read")
    return readable, skipped, hashes, shapes, digest.hexdigest()


def _described(
    encoded: bytes, pixels: NDArray[np.uint8]
) -> tuple[str, PerceptualHash, tuple[int, int]]:
    """A file's digest, and its image's perceptual hash, height and width."""
    height, width = pixels.shape[:2]
    return (
        hashlib.sha256(encoded).hexdigest(),
        perceptual_hash(pixels, mirrored=True),
        (height, width),
    )
