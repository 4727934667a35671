"""Explanation settings in a bundle and on its card, and which images they are chosen on.

Knows files. Does not know how settings are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from limelens.serve.bundle import seal
from limelens.serve.bundle.checks import read_bundle_file
from limelens.serve.bundle.explain_defaults import ExplainDefaults
from limelens.serve.files import write_whole
from limelens.serve.folders import find_images
from limelens.train.data.label_folders import split_folders
from limelens.train.exporting.card_sections import with_section

EXPLAINED: Final = "explain"
"""The name of its section on a card."""


def spread_over(folder: Path, count: int, seed: int) -> list[Path]:
    """Some images of a folder, taken in turn from each of its subfolders.

    Args:
        folder: Images in any order of folders; if it has a split val, only those in there.
        count: How many at most.
        seed: Of the choice.
    """
    folder = split_folders(folder).get("val", folder)
    return in_turn([(path, path.parent) for path in find_images(folder)], count, seed)


def in_turn(images: Sequence[tuple[Path, Any]], count: int, seed: int) -> list[Path]:
    """Some images, from each group in turn, in an order that the seed decides.

    Args:
        images: Each with its group, such as a label.
        count: How many at most.
        seed: Of the choice.
    """
    rng = np.random.default_rng(seed)
    groups: dict[Any, list[Path]] = {}
    for place in rng.permutation(len(images)):
        path, group = images[place]
        groups.setdefault(group, []).append(path)
    turns = zip_longest(*groups.values())
    return [path for turn in turns for path in turn if path is not None][:count]


def write_settings(path: Path, settings: ExplainDefaults, to: Path) -> None:
    """Writes a bundle with other explanation settings; a card beside it gets them too.

    Args:
        path: The bundle; its graph and golden vector stay the same.
        settings: The settings.
        to: The file to write, which may be the bundle's own.

    Raises:
        BundleError: The file is no bundle.
        OSError: The file cannot be written.
    """
    data, metadata = read_bundle_file(path)
    model = onnx.load_model_from_string(data)
    seal(model, replace(metadata, explain=settings))
    write_whole(to, model.SerializeToString())
    card = to.with_name("README.md")
    if card.is_file():
        text = with_section(card.read_text("utf-8"), EXPLAINED, card_section(settings))
        write_whole(card, text)


def card_section(settings: ExplainDefaults) -> str:
    """The settings and what led to them, as a section of a model card."""
    lines = ["## How it is explained\n", f"Unless a caller says otherwise: {settings.describe()}."]
    candidates = settings.why.get("candidates", [])
    if candidates:
        why = settings.why
        lines += [
            f"Chosen on {why['images']} validation images ({why['num_samples']} samples, two "
            "seeds), by how much better than a random order the areas under the curves of "
            "deletion and insertion are; means and standard errors. *Little*: the share of "
            "explanations that say little.\n",
            "| settings | deletion | insertion | R² | stability | little |",
            "|---|---|---|---|---|---|",
        ]
        for one in candidates:
            named = ", ".join(f"{name} {value}" for name, value in one["settings"].items())
            named = named or "the library's own"
            pairs = (one[name] for name in ("deletion", "insertion", "score", "stability"))
            figures = [f"{mean:.3f} ± {error:.3f}" for mean, error in pairs]
            figures.append(f"{one['little'][0]:.0%}")
            lines.append(f"| {named} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"
