"""Label folders or a table of labels, with or without splits, read as lists of examples.

It knows where images lie and what their labels are, reads them once to find broken ones and
near-duplicates, and knows nothing of networks.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Task
from limelens.serve.errors import InvalidImageError
from limelens.serve.folders import (
    Found,
    could_be_image,
    label_name,
    look_alikes,
    split_name,
    subfolders,
    walk,
)
from limelens.serve.image import read_image
from limelens.serve.wording import counted
from limelens.train.data.duplicates import PerceptualHash, look_of, near_duplicate_groups
from limelens.train.data.examples import DataError, Dataset, Example, Skipped, label_counts
from limelens.train.data.label_table import (
    Images,
    find_tables,
    read_label_tables,
    read_macro_labels,
)
from limelens.train.data.tables.table import TableOptions

SHARES: Final = {"train": 0.8, "val": 0.1, "test": 0.1}
"""How data that comes without splits is divided."""
_MOST_NAMED: Final = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """What data claims to hold, before an image was read.

    Args:
        labels: Sorted.
        task: Whether an image has one label or any number.
        splits: Examples by split; `all` where the data is not divided.
        skipped: What is known to be missing.
        others: Files in label folders that are no images by their names.
    """

    labels: tuple[str, ...]
    task: Task
    splits: Mapping[str, tuple[Example, ...]]
    skipped: tuple[Skipped, ...] = ()
    others: tuple[Skipped, ...] = ()


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
            that holds one. Without
            splits, examples are divided 80:10:10 by label; with `train` alone, a tenth of it
            becomes `val`. Near-duplicates (`duplicates`) stay on one
            side.
        seed: Of the division.
        max_skipped_share: With a larger share of unreadable images, the data is refused. Files
            of other kinds are listed as skipped and do not count.
        images: The folder of the images that a table names, or all that is said of the table;
            None finds it.
        macro: A table of label and macro label; None takes `macro.csv` in the data's folder, if
            it is there.
        task: None takes what the data looks like: multilabel where a table has lists or one-hot
            columns, else multiclass.
        val_from_train: Take a tenth of train as `val`, and keep the data's own val apart: it
            becomes `test` where there is none, so that nothing is chosen on it.

    Returns:
        Training and validation examples at least.

    Raises:
        DataError: The data is missing, has fewer than two labels, an empty label, or too many
            unreadable files, or the task is multiclass and an image has not exactly one label.
    """
    listing = for_task(data, list_data(data, images), task)
    labels = listing.labels
    readable, skipped, looks, digest = _read_all(data, listing)
    num_found = sum(len(examples) for examples in listing.splits.values()) + len(listing.skipped)
    skipped = (*listing.skipped, *skipped)
    if len(skipped) > max_skipped_share * num_found:
        first = skipped[0]
        raise DataError(
            f"{len(skipped)} of {num_found} files in {data} cannot be read, more than "
            f"{max_skipped_share:.0%}; the first is {first.path}: {first.reason}"
        )
    if "all" in readable:
        splits = divide(readable["all"], _groups(readable["all"], looks), SHARES, seed)
    elif "val" in readable and not val_from_train:
        splits = readable
    else:
        groups = _groups(readable["train"], looks)
        own = {"test": readable["val"]} if "val" in readable else {}
        splits = {
            **own,
            **readable,
            **divide(readable["train"], groups, {"train": 0.9, "val": 0.1}, seed),
        }
    beside = (data if data.is_dir() else data.parent) / "macro.csv"
    macro = macro or (beside if beside.is_file() else None)
    dataset = Dataset(
        labels,
        {name: tuple(examples) for name, examples in splits.items()},
        (*skipped, *listing.others),
        digest,
        _crossing(splits, looks),
        listing.task,
        read_macro_labels(macro, labels) if macro else {},
    )
    # Of several labels an image, the rare ones may be missing from a small validation split.
    for split in ("train", "val") if listing.task is Task.MULTICLASS else ("train",):
        for label, count in dataset.counts(split).items():
            if count == 0:
                raise DataError(
                    f"label {label!r} of {data} has no readable image for {split}; "
                    "add some or take the label away"
                )
    if not dataset.splits["val"]:
        raise DataError(f"{data} has no readable image for val; add some")
    return dataset


def list_data(data: Path, images: Images = None) -> Listing:
    """Lists images and their labels, without reading an image.

    Args:
        data: As for `read_dataset`.
        images: As for `read_dataset`.

    Raises:
        DataError: The data is missing or cannot be trained on.
    """
    tables = find_tables(data)
    if tables:
        table = read_label_tables(tables, images)
        for note in table.notes:
            _log.info(note)
        if len(table.labels) < 2:
            raise DataError(
                f"{data} has {counted(len(table.labels), 'label')} {list(table.labels)}; "
                "expected at least two"
            )
        _warn_of_look_alikes(table.labels)
        index = {label: number for number, label in enumerate(table.labels)}
        splits = {
            split: tuple(
                Example(path, tuple(sorted(index[label] for label in own))) for path, own in rows
            )
            for split, rows in table.rows.items()
        }
        _check_splits(data, splits)
        return Listing(table.labels, table.task, splits, table.missing)
    folders = _read_folders(data, images)
    found = folders.by_split
    _check_splits(data, found)
    labels = tuple(sorted(found["train" if "train" in found else "all"]))
    _check_labels(data, labels, found)
    _warn_of_look_alikes(labels)
    return Listing(
        labels,
        Task.MULTICLASS,
        {
            split: tuple(
                Example(path, (labels.index(label),))
                for label in sorted(by_label)
                for path in by_label[label]
            )
            for split, by_label in found.items()
        },
        folders.missing,
        folders.others,
    )


def find_split(
    data: Path, split: str | None = None, images: Images = None
) -> tuple[str, Sequence[tuple[Path, tuple[str, ...]]]]:
    """The images of one split with the names of their labels, whatever a model knows.

    Args:
        data: As for `read_examples`.
        split: As for `read_examples`.
        images: As for `read_dataset`.

    Returns:
        The split's name (`all` for data without splits) and its images.

    Raises:
        DataError: The split is missing, or the data cannot be read.
    """
    tables = find_tables(data)
    by_split: Mapping[str, Sequence[tuple[Path, tuple[str, ...]]]]
    if tables:
        table = read_label_tables(tables, images)
        for note in table.notes:
            _log.info(note)
        by_split = table.rows
    else:
        by_split = {
            name: [(path, (label,)) for label in sorted(by_label) for path in by_label[label]]
            for name, by_label in _read_folders(data, images).by_split.items()
        }
    if "all" in by_split:
        return "all", by_split["all"]
    name = split or next((s for s in ("test", "val", "train") if s in by_split), "")
    name = split_name(name) or name
    if name not in by_split:
        raise DataError(f"{data} has the splits {sorted(by_split)}; expected {split!r}")
    return name, by_split[name]


def read_examples(
    data: Path, labels: Sequence[str], split: str | None = None, images: Images = None
) -> tuple[str, tuple[Example, ...]]:
    """Lists the images of one split for an evaluation, without reading them.

    Args:
        data: As for `read_dataset`.
        labels: The model's; the data's are matched by name.
        split: `train`, `val` or `test`. None takes test, else val. Data without splits is taken
            whole, whatever the split.
        images: As for `read_dataset`.

    Returns:
        The split's name (`all` for data without splits) and its examples.

    Raises:
        DataError: The split is missing, or a label is not the model's.
    """
    name, found = find_split(data, split, images)
    # A model of before labels had one form may have another one.
    indices = {label_name(label): index for index, label in enumerate(labels)}
    unknown = sorted({label for _, own in found for label in own} - set(indices))
    if unknown:
        raise DataError(
            f"{data} has the label {unknown[0]!r}, which the model does not know; "
            f"it knows {', '.join(labels)}"
        )
    return name, tuple(
        Example(path, tuple(sorted(indices[label] for label in own))) for path, own in found
    )


@dataclass(frozen=True)
class _Folders:
    """Label folders as they were found.

    Args:
        by_split: Images by split (`all` where there are none) and label.
        missing: Links to what is not there, and folders that cannot be listed.
        others: Files that are no images by their names.
    """

    by_split: dict[str, dict[str, list[Path]]]
    missing: tuple[Skipped, ...]
    others: tuple[Skipped, ...]


def find_splits(folder: Path) -> dict[str, dict[str, list[Path]]] | None:
    """Images by split and label; None where the folder is not divided.

    Raises:
        DataError: The folder is missing, has two folders for one split, or has splits beside
            other folders.
    """
    return _read_folders(folder).by_split if _split_folders(folder) else None


def _split_folders(folder: Path) -> dict[str, Path] | None:
    """Split folders by split; None where the folder is not divided.

    Raises:
        DataError: The folder is missing, has two folders for one split, or has splits beside
            other folders.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is no folder; expected one that holds a folder for each label, "
            "or a csv or tsv table"
        )
    try:
        folders = [path.name for path in subfolders(folder)]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from error
    names = [name for name in folders if split_name(name)]
    if not names:
        return None
    if len(names) < len(folders):
        others = ", ".join(name for name in folders if not split_name(name))
        raise DataError(
            f"{folder} has the splits {', '.join(names)} beside {others}; expected either splits "
            "(train, val or validation, test) or label folders"
        )
    found: dict[str, Path] = {}
    for name in names:
        split = split_name(name) or name
        if split in found:
            raise DataError(
                f"{folder} has both {found[split].name} and {name}; expected one of them"
            )
        found[split] = folder / name
    return found


def _read_folders(data: Path, images: Images = None) -> _Folders:
    """Walks through split and label folders, once for all of them."""
    if isinstance(images, TableOptions) and images != TableOptions(images.images):
        raise DataError(
            f"{data} has no table; --image-column, --label-column, --columns and --separator are "
            "for data in a csv or tsv file"
        )
    splits = _split_folders(data) or {"all": data}
    try:
        # One walk for all of them: a folder that links lead to is read under one label.
        found = walk(data)
        by_split = {split: _by_label(folder, found) for split, folder in splits.items()}
    except OSError as error:
        raise DataError(f"{error.filename or data} cannot be listed: {error.strerror}") from error
    _check_levels(data, by_split)
    for one in found.not_followed[:_MOST_NAMED]:
        _log.warning(f"{one.path} is left out: {one.reason}")
    return _Folders(
        by_split,
        tuple(Skipped(one.path, one.reason) for one in found.unreachable),
        tuple(
            Skipped(path, f"{path.suffix} is no kind of image that is read")
            for path in found.files
            if not could_be_image(path) and path.parent != data
        ),
    )


def _by_label(folder: Path, found: Found) -> dict[str, list[Path]]:
    """Images by label: every folder in `folder` is one, with its subfolders."""
    by_label: dict[str, list[Path]] = {_label_of(label): [] for label in subfolders(folder)}
    for path in found.images:
        if path.is_relative_to(folder) and path.parent != folder:
            by_label[_label_of(folder / path.relative_to(folder).parts[0])].append(path)
    return by_label


def _label_of(folder: Path) -> str:
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{folder!r} cannot be a label: its name is not UTF-8; rename it") from None
    return label_name(folder.name)


def _check_levels(data: Path, by_split: Mapping[str, Mapping[str, Sequence[Path]]]) -> None:
    """Refuses splits below labels, which would be mixed."""
    labels = by_split.get("all")
    if not labels:
        return
    inner = {label: {path.parent.name for path in paths} for label, paths in labels.items()}
    if all(names and all(map(split_name, names)) for names in inner.values()):
        label, names = next(iter(inner.items()))
        raise DataError(
            f"{data} has {', '.join(sorted(names))} in the label folder {label!r}; expected label "
            f"folders in split folders, such as {sorted(names)[0]}/{label}"
        )


def _warn_of_look_alikes(labels: Sequence[str]) -> None:
    for group in look_alikes(labels):
        _log.warning(
            f"the labels {', '.join(map(repr, group))} differ only in case, blanks or hyphens; "
            "rename them if they are one"
        )


def _crossing(
    splits: Mapping[str, Sequence[Example]], looks: Mapping[Path, PerceptualHash]
) -> tuple[tuple[Path, Path], ...]:
    paths = [example.path for examples in splits.values() for example in examples]
    groups = near_duplicate_groups([looks[path] for path in paths])
    group_of = dict(zip(paths, groups.tolist(), strict=True))
    in_train = {group_of[example.path]: example.path for example in splits["train"]}
    return tuple(
        (example.path, in_train[group_of[example.path]])
        for split, examples in splits.items()
        if split != "train"
        for example in examples
        if group_of[example.path] in in_train
    )


def for_task(data: Path, listing: Listing, task: Task | None) -> Listing:
    """A listing for a task that was asked for.

    Raises:
        DataError: It is multiclass, and an image has not exactly one label.
    """
    if task is None or task is listing.task:
        return listing
    if task is Task.MULTICLASS:
        for examples in listing.splits.values():
            for example in examples:
                if len(example.targets) != 1:
                    raise DataError(
                        f"{example.path} has {len(example.targets)} labels in {data}; "
                        "multiclass expects one each"
                    )
    return replace(listing, task=task)


def _check_splits(data: Path, found: Mapping[str, object]) -> None:
    if "all" in found and len(found) > 1:
        raise DataError(f"{data} names the split of some images only; expected of all or none")
    if "train" not in found and "all" not in found:
        raise DataError(f"{data} has the splits {sorted(found)}; expected train among them")


def _check_labels(
    folder: Path, labels: tuple[str, ...], found: Mapping[str, Mapping[str, Sequence[Path]]]
) -> None:
    if len(labels) < 2:
        folders = "one label folder" if len(labels) == 1 else "no label folders"
        named = f", {labels[0]!r}" if labels else ""
        raise DataError(
            f"{folder} has {folders}{named}; expected a folder for each of two labels or more"
            + _hint(folder, labels)
        )
    for split, by_label in found.items():
        unknown = sorted(set(by_label) - set(labels))
        if unknown:
            raise DataError(f"{split} has the label {unknown[0]!r}, which train has not")
        for label, paths in by_label.items():
            if not paths and split in ("train", "all"):
                raise DataError(f"the folder of label {label!r} in {folder} holds no image")


def _hint(folder: Path, labels: Sequence[str]) -> str:
    """Where the label folders may be instead."""
    inner = folder / labels[0] if len(labels) == 1 else None
    if inner is None or not inner.is_dir():
        return ""
    return f" (did you mean {inner}?)" if len(subfolders(inner)) > 1 else ""


def _read_all(
    data: Path, listing: Listing
) -> tuple[dict[str, list[Example]], tuple[Skipped, ...], dict[Path, PerceptualHash], str]:
    """Reads every file once: what is readable, what not, looks of images, the digest."""

    def read(example: Example) -> tuple[str, PerceptualHash | None, str]:
        try:
            encoded = example.path.read_bytes()
        except OSError as error:
            return "", None, str(error.strerror)
        content = hashlib.sha256(encoded).hexdigest()
        try:
            return content, look_of(read_image(encoded)), ""
        except InvalidImageError as error:
            return content, None, str(error)

    digest = hashlib.sha256("\0".join(listing.labels).encode())
    readable: dict[str, list[Example]] = {}
    skipped: list[Skipped] = []
    looks: dict[Path, PerceptualHash] = {}
    with ThreadPoolExecutor() as pool:
        for split, examples in listing.splits.items():
            readable[split] = []
            for example, (content, look, reason) in zip(
                examples, pool.map(read, examples), strict=True
            ):
                if look is None:
                    skipped.append(Skipped(example.path, reason))
                    continue
                targets = ",".join(map(str, example.targets))
                digest.update(f"{split}\0{targets}\0{content}\n".encode())
                looks[example.path] = look
                readable[split].append(example)
    if not any(readable.values()):
        raise DataError(f"no image in {data} can be read")
    return readable, tuple(skipped), looks, digest.hexdigest()


def divide(
    examples: Sequence[Example],
    groups: Sequence[int] | NDArray[np.integer],
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, list[Example]]:
    """Divides by label; a group goes to one side as a whole.

    An image with several labels counts for the rarest of them.

    Args:
        examples: Whose paths are distinct.
        groups: The number of each one's group, as from `near_duplicate_groups`.
        shares: Of each split; they sum to 1.
        seed: Of the order in which groups are dealt out.

    Returns:
        Examples by split, sorted by targets and path.
    """
    rng = np.random.default_rng(seed)
    frequency = label_counts(
        examples, 1 + max((t for example in examples for t in example.targets), default=0)
    )

    def stratum(example: Example) -> int:
        return min(example.targets, key=lambda target: (frequency[target], target), default=-1)

    members: dict[int, list[Example]] = {}
    for example, group in zip(examples, groups, strict=True):
        members.setdefault(int(group), []).append(example)
    # Every split but the first gets one of a label that has two.
    least = {split: float(number > 0) for number, split in enumerate(shares)}
    room = {
        (split, target): max(share * count, least[split] if count > 1 else 0.0)
        for target, count in Counter(map(stratum, examples)).items()
        for split, share in shares.items()
    }
    splits: dict[str, list[Example]] = {split: [] for split in shares}
    order = [members[key] for key in sorted(members)]
    shuffled = [order[int(index)] for index in rng.permutation(len(order))]
    # The largest first, each to where most room is left: a burst of images goes to train.
    for group_of in sorted(shuffled, key=len, reverse=True):
        target = stratum(group_of[0])
        split = max(shares, key=lambda split: room[split, target])
        splits[split].extend(group_of)
        for example in group_of:
            room[split, stratum(example)] -= 1
    return {
        split: sorted(chosen, key=lambda example: (example.targets, str(example.path)))
        for split, chosen in splits.items()
    }


def _groups(examples: Sequence[Example], looks: Mapping[Path, PerceptualHash]) -> NDArray[np.int32]:
    return near_duplicate_groups([looks[example.path] for example in examples])
