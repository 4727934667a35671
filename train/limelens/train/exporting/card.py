"""The model card beside a bundle: how it was trained and how accurate it is.

It computes nothing itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limelens.serve.bundle import Metadata, Task
from limelens.train.exporting.variants import Comparison


def write_card(
    path: Path,
    metadata: Metadata,
    metrics: Mapping[str, Any],
    difference: float,
    comparison: Comparison | None = None,
) -> None:
    """Writes the card as Markdown; the metrics are those on the validation images.

    `difference` is the largest of a probability from the PyTorch network.
    """
    card, config = metadata.card, metadata.card["config"]
    calibration = (
        "not fitted: no mistakes on validation"
        if card["temperature"] == 1.0
        else "fitted on validation"
    )
    note = f"\n{card['note']}\n" if card["note"] else ""
    path.write_text(
        f"""# {metadata.name}
{note}
| | |
|---|---|
| labels | {", ".join(metadata.labels)} |
| alert labels | {", ".join(metadata.alert_labels) or "none"} |
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

## On the validation images ({metrics["num_images"]})

{_summary(metrics)} These are optimistic: the epoch, the temperature and the thresholds were \
chosen on these images.

{_table(metrics)}
{_comparison(comparison) if comparison else ""}""",
        encoding="utf-8",
    )


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
        f"| golden images | {len(images)} of the validation images travel in the file "
        f"({size_kb:,.0f} kB) |\n"
    )


def _summary(metrics: Mapping[str, Any]) -> str:
    if metrics["task"] == Task.MULTILABEL:
        names = {
            "loss": "loss",
            "base_rate_loss": "loss of always predicting the base rates",
            "mean_average_precision": "mean average precision",
            "macro_auc": "macro AUC",
            "micro_f1": "micro F1",
            "macro_f1": "macro F1",
        }
    else:
        names = {
            "accuracy": "accuracy",
            "macro_label_accuracy": "accuracy of superclasses",
            "loss": "loss",
            "ece": "expected calibration error",
        }
    known = [f"{name} {metrics[key]:.4f}" for key, name in names.items() if metrics.get(key)]
    text = ", ".join(known)
    return f"{text[:1].upper()}{text[1:]}."


def _table(metrics: Mapping[str, Any]) -> str:
    extra = ("average_precision", "auc", "threshold")
    shown = [key for key in extra if key in next(iter(metrics["per_class"].values()))]
    lines = [
        "| " + " | ".join(["label", "precision", "recall", "F1", "images", *shown]) + " |",
        "|---" * (5 + len(shown)) + "|",
    ]
    for label, row in metrics["per_class"].items():
        numbers = [f"{row[key]:.3f}" for key in ("precision", "recall", "f1")]
        numbers.append(str(row["support"]))
        numbers += ["" if row[key] is None else f"{row[key]:.3f}" for key in shown]
        lines.append(f"| {label} | " + " | ".join(numbers) + " |")
    return "\n".join(lines).replace("average_precision", "average precision")


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
