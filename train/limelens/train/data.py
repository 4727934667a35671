"""A folder of label folders, with or without splits, read as lists of examples.

It knows where pictures lie and what their labels are, reads them once to find broken ones and
near-duplicates, and knows nothing of networks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import InvalidImageError, LimelensError
from limelens.serve.image import read_image
from limelens.train.duplicates import difference_hash, near_duplicate_groups

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif"})
SPLIT_FOLDERS: Final = {"train": "train", "val": "val", "validation": "val", "test": "test"}
SHARES: Final = {"train": 0.8, "val": 0.1, "test": 0.1}
"""How data that comes without splits is divided."""


class DataError(LimelensError):
    """The data cannot be used as it is; the message names the folder or file."""


@dataclass(frozen=True)
class Example:
    """One picture.

    Args:
        path: Where it lies.
        target: Its label's index.
    """

    path: Path
    target: int


@dataclass(frozen=True)
class Skipped:
    """A file that was left out.

    Args:
        path: Where it lies.
        reason: Why, in words.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Examples by split.

    Args:
        labels: Sorted; an example's target is an index into them.
        splits: `train`, `val` and `test`, as far as they are there.
        skipped: What could not be read.
        digest: SHA-256 over labels, splits and file contents, hexadecimal.
        crossing: Pictures of val and test, each with a near-duplicate of it in train.
    """

    labels: tuple[str, ...]
    splits: Mapping[str, tuple[Example, ...]]
    skipped: tuple[Skipped, ...]
    digest: str
    crossing: tuple[tuple[Path, Path], ...] = ()

    def counts(self, split: str) -> dict[str, int]:
        """How many examples of each label a split has."""
        found = Counter(example.target for example in self.splits[split])
        return {label: found[index] for index, label in enumerate(self.labels)}


def read_dataset(folder: Path, *, seed: int = 0, max_skipped_share: float = 0.05) -> Dataset:
    """Reads the data for a training run.

    Args:
        folder: Label folders, or split folders (`train`, `val` or `validation`, `test`) of label
            folders. Without splits, examples are divided 80:10:10 by label; with `train` alone,
            a tenth of it becomes `val`. Near-duplicates (64-bit difference hash within 4 bits)
            stay on one side.
        seed: Of the division.
        max_skipped_share: With a larger share of unreadable pictures, the data is refused. Files
            of other kinds are listed as skipped and do not count.

    Returns:
        Training and validation examples at least.

    Raises:
        DataError: The folder is missing, has fewer than two labels, an empty label, or too many
            unreadable files.
    """
    found = find_splits(folder)
    if found is None:
        found = {"all": find_labels(folder)}
    if "train" not in found and "all" not in found:
        raise DataError(f"{folder} has the splits {sorted(found)}; expected train among them")
    labels = tuple(sorted(found["train" if "train" in found else "all"]))
    _check_labels(folder, labels, found)
    listed = {
        split: [
            Example(path, labels.index(label))
            for label in sorted(by_label)
            for path in by_label[label]
        ]
        for split, by_label in found.items()
    }
    readable, skipped, hashes, digest = _read_all(folder, labels, listed)
    others = tuple(
        Skipped(path, f"{path.suffix} is no kind of picture that is read")
        for path in _files(folder)
        if not _is_picture(path) and path.parent != folder
    )
    num_found = sum(len(examples) for examples in listed.values())
    if len(skipped) > max_skipped_share * num_found:
        first = skipped[0]
        raise DataError(
            f"{len(skipped)} of {num_found} files in {folder} cannot be read, more than "
            f"{max_skipped_share:.0%}; the first is {first.path}: {first.reason}"
        )
    if "all" in readable:
        splits = divide(readable["all"], _groups(readable["all"], hashes), SHARES, seed)
    elif "val" in readable:
        splits = readable
    else:
        groups = _groups(readable["train"], hashes)
        splits = {
            **readable,
            **divide(readable["train"], groups, {"train": 0.9, "val": 0.1}, seed),
        }
    dataset = Dataset(
        labels,
        {name: tuple(examples) for name, examples in splits.items()},
        (*skipped, *others),
        digest,
        _crossing(splits, hashes),
    )
    for split in ("train", "val"):
        for label, count in dataset.counts(split).items():
            if count == 0:
                raise DataError(
                    f"label {label!r} of {folder} has no readable picture for {split}; "
                    "add some or take the label's folder away"
                )
    return dataset


def read_examples(
    folder: Path, labels: Sequence[str], split: str | None = None
) -> tuple[str, tuple[Example, ...]]:
    """Lists the pictures of one split for an evaluation, without reading them.

    Args:
        folder: As for `read_dataset`.
        labels: The model's; the folder's are matched by name.
        split: `train`, `val` or `test`. None takes test, else val. A folder without splits is
            taken whole, whatever the split.

    Returns:
        The split's name (`all` for a folder without splits) and its examples.

    Raises:
        DataError: The split is missing, or a label is not the model's.
    """
    found = find_splits(folder)
    if found is None:
        name, by_label = "all", find_labels(folder)
    else:
        name = split or next((s for s in ("test", "val", "train") if s in found), "")
        name = SPLIT_FOLDERS.get(name, name)
        if name not in found:
            raise DataError(f"{folder} has the splits {sorted(found)}; expected {split!r}")
        by_label = found[name]
    unknown = sorted(set(by_label) - set(labels))
    if unknown:
        raise DataError(
            f"{folder} has the label {unknown[0]!r}, which the model does not know; "
            f"it knows {', '.join(labels)}"
        )
    indices = {label: index for index, label in enumerate(labels)}
    return name, tuple(
        Example(path, indices[label]) for label in sorted(by_label) for path in by_label[label]
    )


def find_splits(folder: Path) -> dict[str, dict[str, list[Path]]] | None:
    """Pictures by split and label; None where the folder is not divided.

    Raises:
        DataError: The folder is missing, has both `val` and `validation`, or has splits beside
            other folders.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one that holds a folder for each label")
    folders = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    names = [name for name in folders if name in SPLIT_FOLDERS]
    if not names:
        return None
    if len(names) < len(folders):
        others = ", ".join(name for name in folders if name not in SPLIT_FOLDERS)
        raise DataError(
            f"{folder} has the splits {', '.join(names)} beside {others}; expected either splits "
            "(train, val or validation, test) or label folders"
        )
    if {"val", "validation"} <= set(names):
        raise DataError(f"{folder} has both val and validation; expected one of them")
    return {SPLIT_FOLDERS[name]: find_labels(folder / name) for name in names}


def find_labels(folder: Path) -> dict[str, list[Path]]:
    """Pictures by label: every folder in `folder` is a label, with its subfolders."""
    return {
        label.name: [path for path in _files(label) if _is_picture(path)]
        for label in sorted(folder.iterdir())
        if label.is_dir() and not label.name.startswith(".")
    }


def _files(folder: Path) -> list[Path]:
    """Every file below a folder, hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _is_picture(path: Path) -> bool:
    # A name without a suffix says nothing: the content decides.
    return path.suffix.lower() in SUFFIXES or not path.suffix


def _crossing(
    splits: Mapping[str, Sequence[Example]], hashes: Mapping[Path, int]
) -> tuple[tuple[Path, Path], ...]:
    paths = [example.path for examples in splits.values() for example in examples]
    groups = near_duplicate_groups([hashes[path] for path in paths])
    group_of = dict(zip(paths, groups.tolist(), strict=True))
    in_train = {group_of[example.path]: example.path for example in splits["train"]}
    return tuple(
        (example.path, in_train[group_of[example.path]])
        for split, examples in splits.items()
        if split != "train"
        for example in examples
        if group_of[example.path] in in_train
    )


def _check_labels(
    folder: Path, labels: tuple[str, ...], found: Mapping[str, Mapping[str, Sequence[Path]]]
) -> None:
    if len(labels) < 2:
        raise DataError(
            f"{folder} has {len(labels)} label folders {list(labels)}; expected at least two"
        )
    for split, by_label in found.items():
        unknown = sorted(set(by_label) - set(labels))
        if unknown:
            raise DataError(f"{split} has the label {unknown[0]!r}, which train has not")
        for label, paths in by_label.items():
            if not paths and split in ("train", "all"):
                raise DataError(f"the folder of label {label!r} in {folder} holds no picture")


def _read_all(
    folder: Path, labels: tuple[str, ...], listed: Mapping[str, Sequence[Example]]
) -> tuple[dict[str, list[Example]], tuple[Skipped, ...], dict[Path, int], str]:
    """Reads every file once: what is readable, what not, hashes of pictures, the digest."""

    def read(example: Example) -> tuple[str, int | None, str]:
        try:
            data = example.path.read_bytes()
        except OSError as error:
            return "", None, str(error.strerror)
        content = hashlib.sha256(data).hexdigest()
        try:
            return content, difference_hash(read_image(data)), ""
        except InvalidImageError as error:
            return content, None, str(error)

    digest = hashlib.sha256("\0".join(labels).encode())
    readable: dict[str, list[Example]] = {}
    skipped: list[Skipped] = []
    hashes: dict[Path, int] = {}
    with ThreadPoolExecutor() as pool:
        for split, examples in listed.items():
            readable[split] = []
            for example, (content, fingerprint, reason) in zip(
                examples, pool.map(read, examples), strict=True
            ):
                if fingerprint is None:
                    skipped.append(Skipped(example.path, reason))
                    continue
                digest.update(f"{split}\0{example.target}\0{content}\n".encode())
                hashes[example.path] = fingerprint
                readable[split].append(example)
    if not any(readable.values()):
        raise DataError(f"no picture in {folder} can be read")
    return readable, tuple(skipped), hashes, digest.hexdigest()


def divide(
    examples: Sequence[Example],
    groups: Sequence[int] | NDArray[np.integer],
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, list[Example]]:
    """Divides by label; a group goes to one side as a whole.

    Args:
        examples: Whose paths are distinct.
        groups: The number of each one's group, as from `near_duplicate_groups`.
        shares: Of each split; they sum to 1.
        seed: Of the order in which groups are dealt out.

    Returns:
        Examples by split, sorted by target and path.
    """
    rng = np.random.default_rng(seed)
    members: dict[int, list[Example]] = {}
    for example, group in zip(examples, groups, strict=True):
        members.setdefault(int(group), []).append(example)
    # Every split but the first gets one of a label that has two.
    least = {split: float(number > 0) for number, split in enumerate(shares)}
    room = {
        (split, target): max(share * count, least[split] if count > 1 else 0.0)
        for target, count in Counter(example.target for example in examples).items()
        for split, share in shares.items()
    }
    splits: dict[str, list[Example]] = {split: [] for split in shares}
    order = [members[key] for key in sorted(members)]
    shuffled = [order[int(index)] for index in rng.permutation(len(order))]
    # The largest first, each to where most room is left: a burst of pictures goes to train.
    for group_of in sorted(shuffled, key=len, reverse=True):
        target = group_of[0].target
        split = max(shares, key=lambda split: room[split, target])
        splits[split].extend(group_of)
        for example in group_of:
            room[split, example.target] -= 1
    return {
        split: sorted(chosen, key=lambda example: (example.target, str(example.path)))
        for split, chosen in splits.items()
    }


def _groups(examples: Sequence[Example], hashes: Mapping[Path, int]) -> NDArray[np.int32]:
    return near_duplicate_groups([hashes[example.path] for example in examples])
