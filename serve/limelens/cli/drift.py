"""`limelens drift`: whether images are unlike those of an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from limelens.cli.classifying import (
    STDIN,
    Device,
    ModelOption,
    ServerOption,
    files_of,
    open_client,
    served_name,
)
from limelens.cli.options import option
from limelens.cli.options.connection_options import NOTHING, Credentials, securely
from limelens.cli.terminal.folding import Folded
from limelens.cli.terminal.printing import AsJson, ImageBar, err, out, print_json

if TYPE_CHECKING:
    from limelens.serve.tools.drift import Comparison, Reference, Sample, Shift
    from limelens.serve.tools.similar import IndexedImage

_UNUSUAL = 5
_LABELS_SHOWN = 8


@securely
def drift(
    reference_index: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCE_INDEX",
            help="A file that limelens index wrote, of images as the model should see them.",
            show_default=False,
        ),
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES",
            help="JPEG, PNG, WebP, BMP or GIF files, or folders of them: at least 20.",
            show_default=False,
        ),
    ],
    server: ServerOption = None,
    model: ModelOption = None,
    version: Annotated[int, option("Version of the model.", min=0, show_default="the index's")] = 0,
    device: Device = "auto",
    fail_on_drift: Annotated[
        bool, option("Exit with code 1 if the images have drifted.", "--fail-on-drift")
    ] = False,
    credentials: Credentials = NOTHING,
    as_json: AsJson = False,
) -> None:
    """Says whether images are unlike those of an index: farther away, or less sure.

    A two-sample test compares how far the model's feature vectors are from the index, and how sure
    the model is. Drift is a difference that is both large (KS at least 0.2) and not by chance
    (p below 0.01). Another mix of labels is shown, and is no drift. Index images that the model was
    not trained on, such as those of validation.

    Example: limelens drift door.index today/ --model models/door/1/model.onnx
    """
    from limelens.serve.tools.drift import compare, reference_of
    from limelens.serve.tools.similar import IndexedImage, embed_files, load_index

    if STDIN in images:
        raise typer.BadParameter("-; expected files or folders")
    files = [IndexedImage(str(path), "") for path in files_of(images)]
    reference = reference_of(load_index(reference_index))
    made = reference.index.made
    name = served_name(server, model)
    if not name:  # as in limelens similar
        name, version = made.model, version or made.version
    with open_client(server, model, device, credentials) as client, ImageBar() as bar:
        found = embed_files(client, Path(), files, model=name, version=version, progress=bar.done)
    reference.index.check_model(found.made.model, found.made.version, found.made.digest)
    sample = reference.sample(found.vectors, found.confidences, found.predicted)
    comparison = compare(reference, sample)
    report = {
        "index": str(reference_index),
        "model": made.model,
        "version": made.version,
        "drift": comparison.is_drift,
        "num_images": len(sample),
        "num_reference": len(reference.index),
        "tests": [
            {
                "of": one.name,
                "reference_median": one.reference_median,
                "median": one.median,
                "ks": one.ks,
                "p_value": one.p_value,
                "drift": one.is_drift,
            }
            for one in comparison.shifts
        ],
        "mix_change": comparison.mix_change,
        "mix": None
        if comparison.mix is None
        else [
            {
                "label": one.label,
                "reference_share": one.reference_share,
                "share": one.share,
                "num_reference": one.num_reference,
                "matched": one.is_matched,
            }
            for one in comparison.mix
        ],
        "unusual": _unusual(reference, sample, found.images),
        "skipped": [{"path": one.path, "reason": one.reason} for one in found.skipped],
    }
    if as_json:
        print_json(report)
    else:
        _print(comparison, report)
        _print_mix(comparison, reference)
        _print_unusual(report)
    if fail_on_drift and comparison.is_drift:
        raise typer.Exit(1)


def _unusual(
    reference: Reference, sample: Sample, images: tuple[IndexedImage, ...]
) -> list[dict[str, Any]]:
    """The images that are farthest from the index, farthest first."""
    own = np.sort(reference.own.distances)
    return [
        {
            "path": images[row].path,
            "distance": float(sample.distances[row]),
            "farther_than": float(np.searchsorted(own, sample.distances[row]) / len(own)),
            "confidence": None if sample.confidences is None else float(sample.confidences[row]),
        }
        for row in np.argsort(-sample.distances, kind="stable")[:_UNUSUAL]
    ]


def _print(comparison: Comparison, report: dict[str, Any]) -> None:
    distance = comparison.shifts[0]
    least = max(comparison.shifts, key=lambda one: (one.is_drift, one.ks))
    count = report["num_images"]
    if comparison.is_drift:
        what = "are farther from the reference"
        if least.name == "confidence":
            what = "leave the model less sure than the reference"
        out.print(
            f"[yellow]Drift: these {count} images {what}[/]: typical {least.name} "
            f"{least.median:.4f}, reference {least.reference_median:.4f} (KS {least.ks:.2f}, "
            f"{_p(least)})"
        )
    else:
        out.print(
            f"[green]No drift in these {count} images[/]: typical distance "
            f"{distance.median:.4f}, reference {distance.reference_median:.4f} "
            f"(KS {distance.ks:.2f}, {_p(distance)})"
        )
    table = Table(box=None, pad_edge=False)
    table.add_column("typical")
    for column in ("reference", "these", "KS", "p", ""):
        table.add_column(column, justify="right" if column else "left")
    for one in comparison.shifts:
        table.add_row(
            one.name,
            f"{one.reference_median:.4f}",
            f"{one.median:.4f}",
            f"{one.ks:.2f}",
            _p(one).removeprefix("p ").removeprefix("= "),
            "drift" if one.is_drift else "",
        )
    out.print(table)


def _print_mix(comparison: Comparison, reference: Reference) -> None:
    """How often each label is predicted, and which cannot be matched."""
    if comparison.mix is None:
        what = "Labels are not matched"
        if len(comparison.shifts) == 1:
            what = "Confidence is not compared and labels are not matched"
        if reference.own.predicted is None:
            out.print(f"{what}: make the index again with this limelens index.")
        else:
            out.print(f"{what}: you may not classify with this model.")
        return
    table = Table(title="predicted labels", title_justify="left", box=None, pad_edge=False)
    table.add_column("label")
    for column in ("reference", "these"):
        table.add_column(column, justify="right")
    for one in comparison.mix[:_LABELS_SHOWN]:
        table.add_row(Folded(escape(one.label)), f"{one.reference_share:.1%}", f"{one.share:.1%}")
    out.print(table)
    if len(comparison.mix) > _LABELS_SHOWN:
        out.print(f"and {len(comparison.mix) - _LABELS_SHOWN} more labels; --json lists all")
    missing = [one for one in comparison.mix if one.share and not one.is_matched]
    for one in missing[:_LABELS_SHOWN]:
        known = f"only {one.num_reference}" if one.num_reference else "none"
        out.print(
            f"{escape(one.label)}: the reference has {known} of these, too few to match; they are "
            "compared with all of it."
        )


def _print_unusual(report: dict[str, Any]) -> None:
    table = Table(title="farthest images", title_justify="left", box=None, pad_edge=False)
    for column in ("distance", "farther than", "confidence"):
        table.add_column(column, justify="right")
    table.add_column("image")
    for row in report["unusual"]:
        sure = row["confidence"]
        table.add_row(
            f"{row['distance']:.4f}",
            f"{row['farther_than']:.1%}",
            "" if sure is None else f"{sure:.4f}",
            Folded(escape(row["path"])),
        )
    out.print(table)
    for one in report["skipped"]:
        err.print(f"left out {escape(one['path'])}: {escape(one['reason'])}")


def _p(shift: Shift) -> str:
    return "p < 0.001" if shift.p_value < 0.001 else f"p = {shift.p_value:.3f}"
