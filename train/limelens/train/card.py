"""The model card that lies beside a bundle: how it was trained and how well it does.

It writes down what it is handed and computes nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limelens.serve.bundle import Metadata


def write_card(
    path: Path, metadata: Metadata, metrics: Mapping[str, Any], difference: float
) -> None:
    """Writes the card as Markdown.

    Args:
        path: The file.
        metadata: The bundle's.
        metrics: The bundle's figures on the validation pictures.
        difference: Largest difference of probabilities from the PyTorch network.
    """
    config = metadata.card["config"]
    note = f"\n{metadata.card['note']}\n" if metadata.card["note"] else ""
    rows = "\n".join(
        f"| {label} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} "
        f"| {row['support']} |"
        for label, row in metrics["per_class"].items()
    )
    alerts = ", ".join(metadata.alert_labels) or "none"
    path.write_text(
        f"""# {metadata.name}
{note}
| | |
|---|---|
| labels | {", ".join(metadata.labels)} |
| alert labels | {alerts} |
| network | {config["arch"]}, {metadata.card["num_parameters"]:,} parameters |
| input | {metadata.resize.height}x{metadata.resize.width}, {metadata.resize.mode.value} |
| data digest | `{metadata.data_digest}` |
| seed | {config["seed"]} |
| best epoch | {metadata.card["epoch"]} of {config["epochs"]} |
| temperature | {metadata.card["temperature"]:.3f} ({_calibration(metadata.card["temperature"])}) |
| from PyTorch | probabilities differ by at most {difference:.1e} |
| limelens | {metadata.limelens_version} |

Trained by

    {_command(config)}

## On the validation pictures ({metrics["num_images"]})

Accuracy {metrics["accuracy"]:.4f}, loss {metrics["loss"]:.4f}, expected calibration error \
{metrics["ece"]:.4f}. Read them with care: the epoch and the temperature were chosen on these.

| label | precision | recall | F1 | pictures |
|---|---|---|---|---|
{rows}
""",
        encoding="utf-8",
    )


def _calibration(temperature: float) -> str:
    if temperature == 1.0:
        return "not fitted: no mistake on validation"
    return "fitted on validation"


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
