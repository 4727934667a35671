"""Plots of training runs and evaluations, drawn by matplotlib: PNG for a file, SVG for a page.

It draws the numbers it is given and does not know how they were measured.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

from limelens.serve.files import writing_whole

_BLUE, _RED, _GREEN = "#4c86c6", "#e0607e", "#2fa36b"
_INK: Final = "#010203"
"""Near-black in a PNG; `to_svg` replaces it with the page's text colour."""
_SHADES: Final = LinearSegmentedColormap.from_list("shades", ["#2f6fb20f", "#2f6fb2ff"])
"""One colour of growing opacity, which suits light and dark pages."""
# Tried in this order for every character. matplotlib complains about missing families.
_FONTS: Final = (
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
_INSTALLED: Final = {font.name for font in font_manager.fontManager.ttflist}
_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": f"{_INK}80",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": [name for name in _FONTS if name in _INSTALLED],
    "grid.alpha": 0.15,
    "grid.color": _INK,
    "legend.frameon": False,
    # Text stays text, in the page's own font: sharp, small and in any script.
    "svg.fonttype": "none",
    "svg.hashsalt": "limelens",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
# A label may contain dollar signs, which would otherwise start a formula.
_STYLE_OF_LABELS: Final[dict[Any, Any]] = {**_STYLE, "text.parse_math": False}
_CURVES: Final = {"loss": "Loss", "accuracy": "Accuracy", "macro_auc": "Macro AUC"}
_NUM_BINS: Final = 10
_MARKED_THRESHOLDS: Final = (0.5, 0.7, 0.9, 0.99)
_MAX_LABELS_LARGE: Final = 12
_MAX_LABELS_WITH_COUNTS: Final = 40
_MAX_LABEL_LENGTH: Final = 40


@matplotlib.rc_context(_STYLE)
def curves(rows: Sequence[Mapping[str, float]], only: str | None = None) -> Figure:
    """Loss and accuracy (or macro AUC) over the epochs; the rows are those of metrics.csv.

    `only` is one of `curve_kinds`, drawn alone and without a headline.
    """
    kinds = curve_kinds(rows) if only is None else [only]
    figure = Figure(figsize=(4.8 * len(kinds), 3.4), layout="constrained")
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds))), kinds, strict=True):
        for split, colour, name in (
            ("train", _BLUE, "training (augmented images)"),
            ("val", _RED, "validation"),
        ):
            points = [
                (row["epoch"], row[f"{split}_{kind}"]) for row in rows if f"{split}_{kind}" in row
            ]
            if points:
                axes.plot(*zip(*points, strict=True), ".-", color=colour, label=name)
        axes.set(xlabel="epoch", title=_CURVES[kind])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    if only is None:
        figure.suptitle(best_epoch(rows), fontsize=10)
    return figure


def curve_kinds(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """What `curves` draws: of `loss`, `accuracy` and `macro_auc` those that are known."""
    return [kind for kind in _CURVES if f"val_{kind}" in rows[-1]]


def best_epoch(rows: Sequence[Mapping[str, float]]) -> str:
    """The best epoch and its figure, in words."""
    if "val_accuracy" in rows[-1]:
        best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
        headline = f"Best validation accuracy {best['val_accuracy']:.1%}"
    else:
        best = min(rows, key=lambda row: row["val_loss"])
        headline = f"Lowest validation loss {best['val_loss']:.4f}"
    return f"{headline} at epoch {best['epoch']:.0f}"


@matplotlib.rc_context({**_STYLE_OF_LABELS, "axes.grid": False})
def confusion_matrix(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """Counts, coloured by their share of the true label: rows true, columns predicted.

    `(C, C)`, or `(C, C + 1)`, whose last column counts the images that the model abstained from.
    """
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    abstained = int(counts[:, len(labels) :].sum())
    has_column = counts.shape[1] > len(labels)
    labels = [_shortened(label) for label in labels]
    columns = [*labels, "abstained"] if has_column else labels
    num = len(columns)
    label_width = 0.09 * max(map(len, columns)) + 0.1
    large, with_counts = num <= _MAX_LABELS_LARGE, num <= _MAX_LABELS_WITH_COUNTS
    if large:
        # Few labels leave room to write their names horizontally.
        cell, size = (min(max(0.62, label_width), 1.3) if num < 5 else 0.62), 9.0
    else:
        cell, size = (0.24 if with_counts else 0.16), 7.5
    horizontal = label_width <= cell
    figure = Figure(
        figsize=(
            cell * num + label_width + 1.6,
            cell * len(labels) + (0.3 if horizontal else label_width) + 0.8,
        ),
        layout="compressed",
    )
    axes = figure.subplots()
    image = axes.imshow(np.where(counts > 0, shares, np.nan), cmap=_SHADES, vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, label="share of the true label", aspect=30)
    bar.solids.set_rasterized(True)  # type: ignore[union-attr]
    bar.outline.set_visible(False)
    ticks = np.arange(num)
    axes.set_xticks(ticks, columns, rotation=0 if horizontal else 90, fontsize=size)
    axes.set_yticks(ticks[: len(labels)], labels, fontsize=size)
    axes.spines[["top", "right"]].set_visible(True)
    if with_counts:
        axes.set_xticks(ticks[1:] - 0.5, minor=True)
        axes.set_yticks(ticks[1 : len(labels)] - 0.5, minor=True)
        axes.grid(which="minor", linewidth=0.5)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else _INK
                axes.text(column, row, f"{count:d}", ha="center", va="center", color=colour,
                          fontsize=10 if large else 6)  # fmt: skip
    axes.tick_params(which="both", length=0)
    if has_column:
        axes.axvline(len(labels) - 0.5, color=_INK, linewidth=1)
    correct, total = int(np.trace(counts)), int(counts.sum()) - abstained
    axes.set(xlabel="predicted", ylabel="true")
    title = f"{correct} of {total} correct ({correct / max(total, 1):.1%})"
    axes.set_title(f"{title}, {abstained} abstained" if has_column else title, fontsize=10)
    return figure


@matplotlib.rc_context(_STYLE)
def reliability(confidence: NDArray[np.floating], correct: NDArray[np.bool_]) -> Figure:
    """Accuracy by confidence, `(N,)` each; perfect calibration is the diagonal."""
    confidence = confidence.clip(0, 1)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=_NUM_BINS)
    counts, edges = np.histogram(confidence, _NUM_BINS, (0, 1))
    figure = Figure(figsize=(4.4, 3.9), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], "--", color=_INK, alpha=0.4, linewidth=1)
    upper.plot(mean, accuracy, "o-", color=_BLUE, markersize=4)
    upper.set(ylabel="share correct", xlim=(0, 1.02), ylim=(0, 1.04))
    lower.bar(edges[:-1] + 0.5 / _NUM_BINS, counts, 0.9 / _NUM_BINS, color=_BLUE, alpha=0.6)
    lower.set(xlabel="confidence", ylabel="count", yscale="log", ylim=(0.7, counts.max() * 2))
    return figure


@matplotlib.rc_context(_STYLE)
def coverage(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], reached: Mapping[str, Any]
) -> Figure:
    """Accuracy on the images that the model is most confident about, by their share.

    The point `reached`, as `threshold_for` returns it, is marked.
    """
    order = np.argsort(-confidence, kind="stable")
    num = len(order)
    ranks = np.arange(1, num + 1)
    accuracy = np.cumsum(correct[order]) / ranks
    figure = Figure(figsize=(4.4, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.plot(ranks / num, accuracy, color=_BLUE)
    lowest = min(float(accuracy[num // 20 :].min()), float(reached["wanted"]))
    axes.set(xlim=(0, 1.03), ylim=(max(0.0, lowest - 0.15 * (1 - lowest) - 0.01), 1.004))
    last = 2.0
    for threshold in _MARKED_THRESHOLDS:
        decided = int((confidence >= threshold).sum())
        x = decided / num
        # Overlapping marks could not be read.
        if decided and last - x > 0.06:
            y, last = float(accuracy[decided - 1]), x
            axes.plot(x, y, "o", color=_BLUE, markersize=4)
            axes.annotate(f"{threshold:g}", (x, y), (0, -12), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
    axes.axhline(reached["wanted"], color=_GREEN, linestyle="--", linewidth=1, alpha=0.8)
    axes.text(0.02, reached["wanted"], f"wanted: {reached['wanted']:.0%}", fontsize=8,
              va="bottom")  # fmt: skip
    if reached["threshold"] is not None:
        axes.plot(reached["coverage"], reached["accuracy"], "D", color=_GREEN, markersize=7)
    axes.set(xlabel="share decided (dots: thresholds)", ylabel="share of these correct")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
        axis.set_major_locator(MaxNLocator(6))
    return figure


@matplotlib.rc_context(_STYLE_OF_LABELS)
def average_precision(
    labels: Sequence[str], average_precision: Sequence[float], base_rates: Sequence[float]
) -> Figure:
    """The average precision of each label, beside that of guessing: its share of images."""
    positions = np.arange(len(labels))
    figure = Figure(figsize=(7.4, 0.24 * len(labels) + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.barh(positions, average_precision, color=_BLUE, alpha=0.75, label="average precision")
    axes.plot(base_rates, positions, "|", color=_RED, markersize=11, markeredgewidth=2,
              label="share of images (guessing)")  # fmt: skip
    axes.set_yticks(positions, [_shortened(label) for label in labels])
    axes.set(xlim=(0, 1), ylim=(len(labels) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower right")
    return figure


@matplotlib.rc_context(_STYLE)
def learning_rates(rates: Sequence[float], losses: Sequence[float], chosen: float) -> Figure:
    """The loss over the learning rate, with the chosen rate marked."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=_BLUE)
    axes.axvline(chosen, color=_RED, linestyle="--", label=f"steepest: {chosen:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.legend()
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a plot to a file, whole or not at all, in the format of its suffix (default PNG)."""
    with writing_whole(path) as file:
        _render(figure, file, dpi=120, format=path.suffix.removeprefix(".").lower() or "png")


def to_svg(figure: Figure, name: str, description: str) -> str:
    """A plot as an SVG element that takes its text colour from the page around it.

    `name`, unique on the page, begins its ids; `description` is its text alternative.
    """
    buffer = io.StringIO()
    _render(
        figure,
        buffer,
        format="svg",
        transparent=True,
        bbox_inches="tight",
        pad_inches=0.05,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    # Another plot on the page may have the same ids.
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    label = html.escape(description)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _render(figure: Figure, file: Any, **options: Any) -> None:
    with warnings.catch_warnings(), matplotlib.rc_context(_STYLE):
        # Characters that no font here has become boxes; a browser has more fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, **options)


def _shortened(label: str) -> str:
    """The beginning and the end of a very long label."""
    if len(label) <= _MAX_LABEL_LENGTH:
        return label
    half = _MAX_LABEL_LENGTH // 2
    return f"{label[: half - 1]}…{label[-half:]}"
