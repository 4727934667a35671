"""What `limelens export` prints of a bundle that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from limelens.cli.terminal.printing import out


def print_exported(report: Mapping[str, Any], golden_data: Path | None) -> None:
    """Prints the report of an export; `golden_data` is where golden images were taken from."""
    out.print(
        f"Wrote [bold]{escape(report['path'])}[/]: {report['model']} version "
        f"{report['version']}, {report['size_bytes'] / 1e6:.1f} MB, {report['precision']}; "
        f"probabilities differ from PyTorch's by at most {report['max_abs_difference']:.1e}."
    )
    if report["threshold"]:
        out.print(f"It abstains below a probability of {report['threshold']:.3f}.")
    if report["crop"] is not None:
        out.print(f"It sees a face with {report['crop']:g} of its box on each side.")
    if report["num_golden_images"]:
        source = "validation images" if golden_data is None else f"images of {golden_data}"
        out.print(
            f"{report['num_golden_images']} {escape(source)} travel in it as golden images "
            "(--golden-images 0 leaves them out)."
        )
    if report["explain"] is not None:
        named = {name: value for name, value in report["explain"].items() if name != "why"}
        words = ", ".join(f"{name} {value}" for name, value in named.items())
        out.print(f"It is explained by {escape(words or 'the defaults')} unless told otherwise.")
    elif report["explain_remark"]:
        out.print(
            f"It has no explanation settings: {escape(report['explain_remark'])}. "
            "limelens tune-explanations finds some."
        )
    if "fp32" in report:
        _print_variant(report)


def _print_variant(report: Mapping[str, Any]) -> None:
    """Prints a table that compares a variant with fp32."""
    fp32 = report["fp32"]
    measure = "accuracy" if "accuracy" in fp32 else "mean_average_precision"
    table = Table(box=None, pad_edge=False)
    for title in ("", "fp32", report["precision"], "ratio"):
        table.add_column(title, justify="right" if title else "left")
    sizes = fp32["size_bytes"], report["size_bytes"]
    table.add_row("size, MB", *(f"{n / 1e6:.2f}" for n in sizes), f"{sizes[1] / sizes[0]:.2f}")
    table.add_row(
        measure.replace("_", " "), f"{fp32[measure]:.2%}", f"{report['metrics'][measure]:.2%}", ""
    )
    for speed in report["speed"]:
        table.add_row(
            f"ms for {speed['batch_size']}, {speed['provider'].removesuffix('ExecutionProvider')}",
            f"{speed['fp32_ms']:.2f}",
            f"{speed['ms']:.2f}",
            f"{speed['ratio']:.2f}",
        )
    out.print(table)
    for remark in report["remarks"]:
        out.print(f"[yellow]{escape(remark)}[/]")
