"""Images of a training run: its curves, its confusion matrix, its augmented images.

It draws figures that are handed to it and knows nothing of how they came about.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.files import writing_whole

_LONGEST_DRAWN: Final = 40
"""Characters of a label beside a figure."""

# Tried in this order for every character; those that the system lacks are left out.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Unifont",
    "PingFang SC",
    "Microsoft YaHei",
)
_TRAIN, _VAL = "#4477aa", "#ee6677"


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws loss and accuracy (or macro AUC) over the epochs.

    Args:
        rows: One an epoch, with `epoch`, `train_loss`, `val_loss`, and `train_accuracy` and
            `val_accuracy`, or `val_macro_auc`.
        path: The PNG to write.
    """
    kinds = {"loss": "Loss", "accuracy": "Accuracy", "macro_auc": "Macro AUC"}
    kinds = {kind: title for kind, title in kinds.items() if f"val_{kind}" in rows[-1]}
    figure = Figure(figsize=(5 * len(kinds), 4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(kinds)))
    for axes, (kind, title) in zip(panels, kinds.items(), strict=True):
        for split, colour, name in (("train", _TRAIN, "training"), ("val", _VAL, "validation")):
            known = [row for row in rows if f"{split}_{kind}" in row]
            if known:
                values = [row[f"{split}_{kind}"] for row in known]
                epochs = [row["epoch"] for row in known]
                axes.plot(epochs, values, color=colour, label=name, marker=".")
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    if "accuracy" in kinds:
        best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
        said = f"Best validation accuracy {best['val_accuracy']:.1%}"
    else:
        best = min(rows, key=lambda row: row["val_loss"])
        said = f"Lowest validation loss {best['val_loss']:.4f}"
    figure.suptitle(
        f"{said} at epoch {best['epoch']:.0f} (training figures are of augmented images)",
        fontsize=10,
    )
    save_figure(figure, path)


def short_label(label: str) -> str:
    """A label as it is drawn: of a very long one its beginning and its end."""
    if len(label) <= _LONGEST_DRAWN:
        return label
    half = _LONGEST_DRAWN // 2
    return f"{label[: half - 1]}…{label[-half:]}"


def plot_confusion(confusion: Sequence[Sequence[int]], labels: Sequence[str], path: Path) -> None:
    """Draws a confusion matrix: counts, coloured by their share of the true label.

    Args:
        confusion: Rows are true labels, columns predicted ones.
        labels: Their names.
        path: The PNG to write.
    """
    counts = np.asarray(confusion)
    labels = [short_label(label) for label in labels]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(3.0 + 0.45 * len(labels), 24.0)
    # Names of labels take room at the left.
    figure = Figure(figsize=(side + 1.2 + 0.08 * max(map(len, labels)), side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axes, label="share of the true label", shrink=0.8)
    ticks = np.arange(len(labels))
    long = max(map(len, labels)) > 6 and len(labels) > 3
    axes.set_xticks(ticks, labels, rotation=60 if long else 0, ha="right" if long else "center")
    axes.set_yticks(ticks, labels)
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) <= 30:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:d}", ha="center", va="center", color=colour)
    correct = int(np.trace(counts))
    axes.set_title(f"{correct} of {counts.sum()} right ({correct / max(counts.sum(), 1):.1%})")
    installed = {font.name for font in font_manager.fontManager.ttflist}
    families = [name for name in _FONTS if name in installed]
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_fontfamily(families)
    with warnings.catch_warnings():
        # A script that no font here has is drawn as boxes: no reason to stop.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a plot whole or not at all, in the form that its suffix names."""
    with writing_whole(path) as file:
        figure.savefig(file, dpi=120, format=path.suffix.removeprefix(".") or "png")


def write_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], path: Path) -> None:
    """Writes a sheet of images of one size: a row each, the first column set apart.

    Args:
        rows: `(H, W, 3)` uint8 images; the first of a row is the original.
        path: The PNG to write.
    """
    height, width = rows[0][0].shape[:2]
    gap = max(4, width // 16)
    columns = max(map(len, rows))
    sheet = np.full((len(rows) * (height + gap), columns * width + gap, 3), 255, dtype=np.uint8)
    for r, images in enumerate(rows):
        for c, image in enumerate(images):
            left = c * width + (gap if c else 0)
            sheet[r * (height + gap) : r * (height + gap) + height, left : left + width] = image
    with writing_whole(path) as file:
        Image.fromarray(sheet[:-gap]).save(file, "PNG")
