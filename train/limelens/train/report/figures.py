"""Figures of a report, as SVG that takes the colours of the page it stands on.

It draws what it is handed and knows nothing of how that came about.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from limelens.train.report.plots import short_label

_INK: Final = "#010203"
"""Stands for the page's own colour of text, whatever it is."""
_BLUE, _RED, _GREEN = "#4c86c6", "#e0607e", "#2fa36b"
_NUM_BINS: Final = 10
_MARKED: Final = (0.5, 0.7, 0.9, 0.99)
_FEW_LABELS: Final = 12
_WITH_COUNTS: Final = 40


def curves(rows: Sequence[Mapping[str, float]]) -> str:
    """Loss and accuracy (or macro AUC) over the epochs.

    Args:
        rows: Of metrics.csv.
    """
    kinds = {"loss": "loss", "accuracy": "accuracy", "macro_auc": "macro AUC"}
    kinds = {kind: title for kind, title in kinds.items() if f"val_{kind}" in rows[-1]}
    figure = Figure(figsize=(4.6 * len(kinds), 3.0), layout="constrained")
    for axes, (kind, title) in zip(
        np.atleast_1d(figure.subplots(1, len(kinds))), kinds.items(), strict=True
    ):
        for split, colour, name in (("train", _BLUE, "training"), ("val", _RED, "validation")):
            known = [row for row in rows if f"{split}_{kind}" in row]
            if known:
                values = [row[f"{split}_{kind}"] for row in known]
                axes.plot([row["epoch"] for row in known], values, ".-", color=colour, label=name)
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _plain(axes)
        axes.legend(frameon=False)
    return _svg(figure)


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """A confusion matrix, coloured by the share of the true label.

    Args:
        counts: Rows are true labels, columns predicted ones.
        labels: Their names.
    """
    table = np.asarray(counts)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    num = len(labels)
    labels = [short_label(label) for label in labels]
    few = num <= _FEW_LABELS
    name = 0.09 * max(map(len, labels)) + 0.1
    if few:
        # Room for names to stand upright, where there are few of them.
        cell, size = (min(max(0.62, name), 1.3) if num < 5 else 0.62), 9.0
    else:
        cell, size = (0.24 if num <= _WITH_COUNTS else 0.16), 7.5
    figure = Figure(figsize=(cell * num + name + 0.4, cell * num + name + 0.4))
    axes = figure.subplots()
    # Coloured by opacity, so that an empty cell is the page's own ground.
    shown = np.empty((num, num, 4))
    shown[..., :3] = np.array([0x2F, 0x6F, 0xB2]) / 255
    shown[..., 3] = np.where(table > 0, 0.06 + 0.94 * shares, 0.0)
    axes.imshow(shown, interpolation="nearest")
    ticks = np.arange(num)
    upright = name <= cell
    axes.set_xticks(ticks, labels, rotation=0 if upright else 90, fontsize=size)
    axes.set_yticks(ticks, labels, fontsize=size)
    if num <= _WITH_COUNTS:
        axes.set_xticks(ticks[1:] - 0.5, minor=True)
        axes.set_yticks(ticks[1:] - 0.5, minor=True)
        axes.grid(which="minor", alpha=0.15, color=_INK, linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="predicted", ylabel="true")
    if num <= _WITH_COUNTS:
        for (row, column), count in np.ndenumerate(table):
            if count:
                colour = "white" if shares[row, column] > 0.5 else _INK
                axes.text(
                    column, row, f"{count:d}", ha="center", va="center", color=colour,
                    fontsize=10 if few else 6,
                )  # fmt: skip
    return _svg(figure)


def reliability(confidence: NDArray[np.floating], correct: NDArray[np.bool_]) -> str:
    """How often answers of a confidence are right; perfect calibration is the diagonal.

    Args:
        confidence: `(N,)`, 0 to 1.
        correct: `(N,)`.
    """
    bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    counts = np.bincount(bins, minlength=_NUM_BINS)
    some = counts > 0
    mean = np.bincount(bins, weights=confidence, minlength=_NUM_BINS)[some] / counts[some]
    right = np.bincount(bins, weights=correct, minlength=_NUM_BINS)[some] / counts[some]
    figure = Figure(figsize=(4.4, 3.9), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], "--", color=_INK, alpha=0.4, linewidth=1)
    upper.plot(mean, right, "o-", color=_BLUE, markersize=4)
    upper.set(ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.04))
    centres = (np.arange(_NUM_BINS) + 0.5) / _NUM_BINS
    lower.bar(centres, counts, width=0.9 / _NUM_BINS, color=_BLUE, alpha=0.6)
    lower.set(xlabel="confidence", ylabel="answers", yscale="log", ylim=(0.7, counts.max() * 2))
    for axes in (upper, lower):
        _plain(axes)
    return _svg(figure)


def coverage(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], reached: Mapping[str, Any]
) -> str:
    """How right the model is on the share of images that it is surest of.

    Args:
        confidence: `(N,)`, of the decided label.
        correct: `(N,)`.
        reached: As `threshold_for` gives it; its point is marked.
    """
    order = np.argsort(-confidence, kind="stable")
    num = len(order)
    share = np.arange(1, num + 1) / num
    right = np.cumsum(correct[order]) / np.arange(1, num + 1)
    figure = Figure(figsize=(4.4, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.plot(share, right, color=_BLUE)
    lowest = min(float(right[num // 20 :].min()), float(right[-1]), float(reached["wanted"]))
    axes.set(xlim=(0, 1.03), ylim=(max(0.0, lowest - 0.15 * (1 - lowest) - 0.01), 1.004))
    last = 2.0
    for threshold in _MARKED:
        decided = int((confidence >= threshold).sum())
        x = decided / num
        # Marks on top of each other would say nothing.
        if decided and last - x > 0.06:
            y, last = float(right[decided - 1]), x
            axes.plot(x, y, "o", color=_BLUE, markersize=4)
            axes.annotate(f"{threshold:g}", (x, y), (0, -12), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
    axes.axhline(reached["wanted"], color=_GREEN, linestyle="--", linewidth=1, alpha=0.8)
    axes.text(0.02, reached["wanted"], f"wanted: {reached['wanted']:.0%}", fontsize=8,
              va="bottom")  # fmt: skip
    if reached["threshold"] is not None:
        axes.plot(reached["coverage"], reached["accuracy"], "D", color=_GREEN, markersize=7)
    axes.set(xlabel="share decided (dots: thresholds)", ylabel="share of these right")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
        axis.set_major_locator(MaxNLocator(6))
    _plain(axes)
    return _svg(figure)


def against_base_rates(
    labels: Sequence[str], average_precision: Sequence[float], base_rates: Sequence[float]
) -> str:
    """The average precision of each label beside what guessing would reach.

    Args:
        labels: Their names.
        average_precision: Of each.
        base_rates: The share of images that have it: the average precision of chance.
    """
    places = np.arange(len(labels))
    labels = [short_label(label) for label in labels]
    figure = Figure(figsize=(7.4, 0.24 * len(labels) + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.barh(places, average_precision, color=_BLUE, alpha=0.75, label="average precision")
    axes.plot(base_rates, places, "|", color=_RED, markersize=11, markeredgewidth=2,
              label="share of images (chance)")  # fmt: skip
    axes.set_yticks(places, labels)
    axes.set(xlim=(0, 1), ylim=(len(labels) - 0.4, -0.6))
    _plain(axes)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, loc="lower right")
    return _svg(figure)


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.15, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure) -> str:
    # Text stays text, in the page's own font: sharp, small and in any script.
    style = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "limelens"})
    for axes in figure.axes:
        axes.set_facecolor("none")
        for spine in axes.spines.values():
            spine.set_edgecolor(_INK)
            spine.set_alpha(0.5)
        axes.tick_params(which="both", colors=_INK)
        legend = axes.get_legend()
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label]
        for text in [*texts, *(legend.get_texts() if legend else ()), *axes.texts]:
            if text.get_color() != "white":
                text.set_color(_INK)
    buffer = io.StringIO()
    with warnings.catch_warnings(), style:
        # The browser has fonts that this machine lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            bbox_inches="tight",
            pad_inches=0.05,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")
