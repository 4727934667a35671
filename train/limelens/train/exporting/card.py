"""The model card beside a bundle: what it is for, how it was trained, how accurate it is.

It computes nothing itself.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Metadata, Task
from limelens.serve.files import write_whole
from limelens.train.exporting.card_figures import figures, weak_groups, write_plots
from limelens.train.exporting.card_sections import BY_HAND as BY_HAND
from limelens.train.exporting.card_sections import with_section
from limelens.train.exporting.settings_in_bundle import EXPLAINED, card_section
from limelens.train.exporting.variants import Comparison


def write_card(
    path: Path,
    metadata: Metadata,
    metrics: Mapping[str, Any],
    difference: float,
    comparison: Comparison | None = None,
    plots: str = "",
) -> None:
    """Writes the card as Markdown; the metrics are those on the validation images.

    `difference` is the largest of a probability from the PyTorch network; `plots` is Markdown that
    shows plots of the same images.
    """
    card, config = metadata.card, metadata.card["config"]
    calibration = (
        "not fitted: no mistakes on validation"
        if card["temperature"] == 1.0
        else "fitted on validation"
    )
    note = f"\n{card['note']}\n" if card["note"] else ""
    if card.get("warning"):
        note = f"\n**Beware:** {card['warning']}\n{note}"
    text = f"""# {metadata.name}
{note}
| | |
|---|---|
| labels | {", ".join(metadata.labels)} |
| alert labels | {", ".join(metadata.alert_labels) or "none"} |
{_data(card)}\
| network | {config["arch"]}, {card["num_parameters"]:,} parameters |
| input | {metadata.resize.height}x{metadata.resize.width}, {metadata.resize.mode.value} |
| data digest | `{metadata.data_digest}` |
| seed | {config["seed"]} |
| best epoch | {card["epoch"]} of {config["epochs"]} |
| temperature | {card["temperature"]:.3f} ({calibration}) |
| precision | {metadata.precision} |
{_crop(metadata)}{_golden_images(metadata)}\
| from PyTorch | probabilities differ by at most {difference:.1e} |
| limelens | {metadata.limelens_version} |

Trained by

    {_command(config)}

## Limits

{_limits(metadata, metrics)}

## On the validation images ({metrics["num_images"]})

These figures are optimistic: the epoch, the temperature and the thresholds were chosen on these \
images.

{figures(metrics)}
{plots and f"{chr(10)}{plots}{chr(10)}"}\
{_comparison(comparison) if comparison else ""}"""
    if metadata.explain is not None:
        text = with_section(text, EXPLAINED, card_section(metadata.explain))
    write_whole(path, with_hand_written(text, path))


def write_measured(
    card: Path,
    title: str,
    metrics: Mapping[str, Any],
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
) -> None:
    """Adds a section of measured figures to a card, or replaces the one of this title.

    Args:
        card: Made if it is missing; the rest of it stays.
        title: For readers, such as `test images`.
        metrics: As from `evaluate`.
        probabilities: Of the same images, `(N, C)`.
        targets: As `targets_of` returns them.
    """
    title = " ".join(title.split())
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "measured"
    plots = write_plots(card.parent, metrics, probabilities, targets, f"-{name}")
    heading = f"## On {title} ({metrics['num_images']})"
    section = f"{heading}\n\n{figures(metrics)}\n\n{plots}"
    text = card.read_text(encoding="utf-8") if card.exists() else f"# {card.parent.parent.name}\n"
    write_whole(card, with_section(text, f"evaluate: {name}", section))


def with_hand_written(text: str, card: Path) -> str:
    """A card's text, with what people wrote below `BY_HAND` in the card that it replaces."""
    before = card.read_text(encoding="utf-8") if card.exists() else ""
    _, marker, kept = before.partition(BY_HAND)
    return f"{text.rstrip()}\n\n{BY_HAND}{kept}" if marker else text


def _data(card: Mapping[str, Any]) -> str:
    """The rows about the data; empty if nothing is known."""
    data = card.get("data", {})
    rows = {"data": data.get("name"), "licence of the data": data.get("license")}
    return "".join(f"| {name} | {_cell(value)} |\n" for name, value in rows.items() if value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _limits(metadata: Metadata, metrics: Mapping[str, Any]) -> str:
    """What people say that the model must not be used for, then what follows from figures."""
    lines = []
    if metadata.task is Task.MULTICLASS:
        every = (
            f"- Below a probability of {metadata.threshold:g} it abstains. Above, it"
            if metadata.threshold
            else "- It never abstains: it"
        )
        lines.append(
            f"{every} gives one of its {len(metadata.labels)} labels, also to an image that shows "
            "none of them."
        )
    lines.append(
        "- Its figures hold for images like those it was measured on. Measure it on images of the "
        "place where it will be used (`limelens evaluate`), and adjust it (`limelens calibrate`)."
    )
    if metadata.crop is not None:
        lines.append(
            "- It says nothing of who a person is, and must not be used to recognise or to track "
            "people, or to decide about a person without another person."
        )
    if metadata.alert_labels:
        lines.append("- Its alerts must not be the only safeguard where people may be harmed.")
    if "groups" in metrics:
        worse, small = weak_groups(metrics["groups"])
        if worse:
            lines.append(f"- It is worse on: {'; '.join(worse)}.")
        if small:
            lines.append(f"- Too few images to say how good it is on: {', '.join(small)}.")
    own = str(metadata.card.get("limits", "")).strip()
    return "\n\n".join(part for part in (own, "\n".join(lines)) if part)


def _crop(metadata: Metadata) -> str:
    """The row about faces in frames; empty if the model is not about faces."""
    if metadata.crop is None:
        return ""
    chosen = metadata.card.get("crop")
    source = ""
    if chosen:
        accuracy = chosen["accuracy"][f"{metadata.crop:g}"]
        source = f" ({accuracy:.4f} right on {chosen['num_faces']} faces of validation)"
    return f"| crop | a face with {metadata.crop:g} of its box on each side{source} |\n"


def _golden_images(metadata: Metadata) -> str:
    """The row about images that whoever has the file can see; empty if there are none."""
    images = metadata.golden_images
    if not images:
        return ""
    size_kb = sum(len(image.encoded) for image in images) / 1e3
    return (
        f"| golden images | {len(images)} labelled images travel in the file "
        f"({size_kb:,.0f} kB) |\n"
    )


def _comparison(comparison: Comparison) -> str:
    precision, measure = comparison.precision, comparison.measure.replace("_", " ")
    lines = [
        f"\n## {precision} compared with fp32\n",
        "On the validation images; timed alternately on the exporting machine, on one core or one "
        "GPU.\n",
        f"| | fp32 | {precision} |",
        "|---|---|---|",
        f"| size | {comparison.fp32_size_bytes:,} bytes | {comparison.size_bytes:,} bytes |",
        f"| {measure} | {comparison.fp32_accuracy:.4f} | {comparison.accuracy:.4f} |",
        *(
            f"| ms per call of {speed.batch_size}, {speed.provider} "
            f"| {speed.fp32_ms:.2f} | {speed.ms:.2f} |"
            for speed in comparison.speeds
        ),
        f"\nSingle probabilities differ by up to {comparison.difference:.2g}; temperature, "
        "thresholds and golden vector were fitted for this precision.",
        *(f"\n**Beware:** {remark}." for remark in comparison.remarks),
    ]
    return "\n".join(lines) + "\n"


def _command(config: Mapping[str, Any]) -> str:
    words = ["limelens", "train", "DATA"]
    for key, value in config.items():
        if value is None or value is False or value == []:
            continue
        if key.startswith("teacher_") and not config.get("teacher"):
            continue
        option = f"--{key.replace('_', '-')}"
        if key == "input_size":
            words += [option, "x".join(map(str, value))]
        elif value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [word for item in value for word in (option.removesuffix("s"), str(item))]
        else:
            words += [option, str(value)]
    return shlex.join(words)
