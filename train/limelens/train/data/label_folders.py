"""Finds images in label folders, with or without split folders above them.

Knows names of folders; reads no image and knows nothing of tables.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limelens.serve.folders import Found, label_name, split_name, subfolders, walk
from limelens.train.data.examples import DataError, Skipped

ByLabel = Mapping[str, Sequence[Path]]
_MOST_NAMED: Final = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelFolders:
    """Images in label folders.

    Args:
        by_split: By split (`all` if there are none) and label.
        missing: Broken links, and folders that cannot be listed.
        others: Files that are no images by their names.
    """

    by_split: Mapping[str, ByLabel]
    missing: tuple[Skipped, ...]
    others: tuple[Skipped, ...]

    @property
    def rows(self) -> dict[str, tuple[tuple[Path, tuple[str, ...]], ...]]:
        """Images with their label, by split."""
        return {
            split: tuple((path, (label,)) for label in sorted(own) for path in own[label])
            for split, own in self.by_split.items()
        }


def read_label_folders(data: Path) -> LabelFolders:
    """Walks through split and label folders.

    Raises:
        DataError: A folder is missing or cannot be listed, there are two folders for one split,
            splits beside other folders, or splits inside label folders.
    """
    splits = split_folders(data) or {"all": data}
    try:
        # One walk for all of them: a linked folder is read under one label.
        found = walk(data)
        by_split = {split: _by_label(folder, found) for split, folder in splits.items()}
    except OSError as error:
        raise DataError(f"{error.filename or data} cannot be listed: {error.strerror}") from error
    inner = {
        label: {path.parent.name for path in paths}
        for label, paths in by_split.get("all", {}).items()
    }
    # They would be mixed.
    if inner and all(names and all(map(split_name, names)) for names in inner.values()):
        label, names = next(iter(inner.items()))
        raise DataError(
            f"{data} has {', '.join(sorted(names))} in the label folder {label!r}; expected label "
            f"folders in split folders, such as {sorted(names)[0]}/{label}"
        )
    for one in found.not_followed[:_MOST_NAMED]:
        _log.warning(f"{one.path} is left out: {one.reason}")
    return LabelFolders(
        by_split,
        found.unreachable,
        tuple(one for one in found.not_images if one.path.parent != data),
    )


def split_folders(folder: Path) -> dict[str, Path]:
    """Split folders by split; empty if the folder is not divided.

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
        folders = subfolders(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from error
    found: dict[str, Path] = {}
    named = [(path, split) for path in folders if (split := split_name(path.name))]
    if 0 < len(named) < len(folders):
        names = ", ".join(path.name for path, _ in named)
        others = ", ".join(path.name for path in folders if not split_name(path.name))
        raise DataError(
            f"{folder} has the splits {names} beside {others}; expected either "
            "splits (train, val or validation, test) or label folders"
        )
    for path, split in named:
        if split in found:
            raise DataError(
                f"{folder} has both {found[split].name} and {path.name}; expected one of them"
            )
        found[split] = path
    return found


def check_labels(folder: Path, labels: Sequence[str], by_split: Mapping[str, ByLabel]) -> None:
    """Refuses data that has too few labels, or a label without an image to train on."""
    if len(labels) < 2:
        inner = [folder / label for label in labels if (folder / label).is_dir()]
        is_nested = inner and len(subfolders(inner[0])) > 1
        raise DataError(
            f"{folder} has "
            + (f"one label folder, {labels[0]!r}" if labels else "no label folders")
            + "; expected a folder for each of two labels or more"
            + (f" (did you mean {inner[0]}?)" if is_nested else "")
        )
    for split, by_label in by_split.items():
        unknown = sorted({*by_label} - {*labels})
        if unknown:
            raise DataError(f"{split} has the label {unknown[0]!r}, which train lacks")
        for label, paths in by_label.items():
            if not paths and split in ("train", "all"):
                raise DataError(f"the folder of label {label!r} in {folder} holds no image")


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
