"""`limelens evaluate` and `limelens calibrate`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.markup import escape
from rich.table import Table

from limelens.cli.options.data_options import Data, DataTable, with_table_options
from limelens.cli.options.face_options import NO_FACES, Faces, face_option, with_faces
from limelens.cli.options.output_options import writable_file, writable_folder
from limelens.cli.options.usage_errors import usage_of
from limelens.cli.terminal.by_products import ByProducts
from limelens.cli.terminal.folding import Folded
from limelens.cli.terminal.printing import AsJson, err, out, print_json, print_next
from limelens.serve.faces.options import DEFAULT_DETECTOR, FaceOptions
from limelens.serve.wording import counted

_FEW_IMAGES: Final = 200
"""With fewer, what an accuracy may be on others is said beside it."""


@with_faces
@with_table_options
def evaluate(
    run_or_model: Annotated[
        Path,
        typer.Argument(
            help="A run's folder, a .pt checkpoint or a .onnx bundle.", show_default=False
        ),
    ],
    data: Data,
    split: Annotated[
        str | None, typer.Option(help="train, val or test.", show_default="test, else val")
    ] = None,
    table: DataTable = None,
    wanted_accuracy: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Find the threshold at which this share of the decided images is correct.",
        ),
    ] = 0.95,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Also write the predictions, one row per image.",
            callback=writable_file,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="HTML",
            help="Also write a page with metrics, plots and explained mistakes.",
            callback=writable_file,
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            metavar="TITLE",
            help="Also write the figures into the model card beside the bundle, as a section of "
            "this title, such as 'the test images'.",
        ),
    ] = None,
    groups: Annotated[
        bool,
        typer.Option(
            "--groups",
            help="Also print the accuracy by size, brightness and shape of the images, and by the "
            "columns of groups.csv in DATA.",
        ),
    ] = False,
    faces: Faces = NO_FACES,
    which_face: Annotated[
        Literal["largest", "worst"],
        face_option("The face that has a photograph's label."),
    ] = "largest",
    face_detector: Annotated[
        str,
        face_option(
            "What finds faces: default, centerface, or a detector's model.onnx.",
            metavar="NAME|FILE",
        ),
    ] = DEFAULT_DETECTOR,
    as_json: AsJson = False,
) -> None:
    """Measures a checkpoint or a bundle on labelled images.

    Data without splits that the model was trained on is divided again as in training; the model is
    measured on the test images, which training never used.

    With --faces, a bundle is measured on one face of each photograph; images without a face that
    can be judged are counted, and left out of the metrics.

    Example: limelens evaluate models/facemask/2/model.onnx DATA --split test

    Example: limelens evaluate models/facemask/2/model.onnx PHOTOGRAPHS --faces
    """
    from limelens.train.data.listing import find_split
    from limelens.train.runs import check_run_or_model, is_bundle, read_rows

    if faces.wanted and report is not None:
        raise typer.BadParameter("--report explains whole images; expected it without --faces")
    # Checked before torch is loaded, which takes seconds.
    check_run_or_model(run_or_model)
    if card is not None and not is_bundle(run_or_model):
        raise typer.BadParameter(f"{run_or_model} is no bundle; a card lies beside a bundle")
    card_path = (run_or_model if run_or_model.is_dir() else run_or_model.parent) / "README.md"
    if card is not None:
        writable_file(card_path)
    find_split(data, split, table)
    from limelens.train.evaluation.evaluate import assess
    from limelens.train.evaluation.faces import FaceChoice

    choice = None
    if isinstance(faces.wanted, FaceOptions):
        choice = FaceChoice(which_face, face_detector, faces.wanted)
    evaluation = assess(
        run_or_model,
        data,
        split=split,
        images=table,
        wanted_accuracy=wanted_accuracy,
        faces=choice,
    )
    by_products = ByProducts()
    if predictions is not None:
        from limelens.train.report.predictions import write_predictions

        with by_products.writing(predictions):
            write_predictions(evaluation, predictions, data=data)
    if report is not None:
        from limelens.train.audit.inspection import inspect
        from limelens.train.report.page import write_report

        inspection = inspect(data, images=table, run_or_model=run_or_model)
        with by_products.writing(report):
            write_report(evaluation, report, rows=read_rows(run_or_model), inspection=inspection)
    if card is not None:
        from limelens.train.data.examples import targets_of
        from limelens.train.exporting.card import write_measured

        with by_products.writing(card_path):
            model = evaluation.model
            targets = targets_of(evaluation.examples, len(model.labels), model.task)
            write_measured(card_path, card, evaluation.metrics, evaluation.probabilities, targets)
    if as_json:
        print_json(evaluation.metrics)
    else:
        print_metrics(evaluation.metrics)
        print_groups(evaluation.metrics["groups"], every=groups)
    by_products.report(as_json=as_json)


@with_table_options
def calibrate(
    run: Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)],
    data: Data,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    table: DataTable = None,
    as_json: AsJson = False,
) -> None:
    """Adjusts a run's probabilities to images from a new source.

    Fits temperature, label bias and thresholds of the run's best checkpoint again, on a few hundred
    labelled images from the place where it will be used. Export the run afterwards.

    Example: limelens calibrate runs/photos IMAGES_OF_THE_PLACE
    """
    from limelens.train import run_lock
    from limelens.train.data.listing import find_split
    from limelens.train.runs import check_best

    in_use = functools.partial(usage_of, "RUN", run_lock.RunInUseError)
    with in_use():
        run_lock.check_free(run)
    check_best(run)
    writable_folder(run)
    find_split(data, split, table)
    from limelens.train.evaluation.calibration import calibrate as run_calibration

    with in_use():
        metrics = run_calibration(run, data, split=split, images=table)
    if as_json:
        print_json(metrics)
        return
    print_metrics({**metrics, "split": "fitted on these"})
    out.print(f"Temperature {metrics['temperature']:.3f}.")
    print_next(f"limelens export {run}")


def _uncertainty(metrics: Mapping[str, Any]) -> str:
    """What an accuracy on few images may be on many; nothing if they are enough."""
    num_images = metrics["num_images"]
    if not 0 < num_images < _FEW_IMAGES:
        return ""
    from limelens.train.evaluation.interval import accuracy_interval

    low, high = accuracy_interval(round(metrics["accuracy"] * num_images), num_images)
    return f", on more images probably {low:.0%} to {high:.0%}"


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Prints the metrics of an evaluation: a summary and a table of labels."""
    where = f" ({metrics['split']})" if "split" in metrics else ""
    if "faces" in metrics:
        found = metrics["faces"]
        not_found, not_judged = len(found["not_found"]), len(found["not_judged"])
        out.print(
            f"The {found['which']} face of each photograph; in {counted(not_found, 'image')} there "
            f"was none, in {not_judged} none that can be judged"
        )
    if metrics["task"] == "multilabel":
        out.print(
            f"Macro AUC [bold]{_number(metrics['macro_auc'])}[/], mean average precision "
            f"{_number(metrics['mean_average_precision'])} on {metrics['num_images']} "
            f"images{where}; loss {metrics['loss']:.4f} (base rates alone: "
            f"{metrics['base_rate_loss']:.4f}), micro F1 {metrics['micro_f1']:.3f}"
        )
    else:
        out.print(
            f"[bold]{metrics['accuracy']:.2%}[/] of {counted(metrics['num_images'], 'image')} "
            f"correct{where}{_uncertainty(metrics)}; "
            f"loss {metrics['loss']:.3f}, calibration error {metrics['ece']:.3f}"
            + (
                f", top-5 accuracy {metrics['top5_accuracy']:.2%}"
                if len(metrics["labels"]) > 5
                else ""
            )
            + (
                f", superclass accuracy {metrics['macro_label_accuracy']:.2%}"
                if "macro_label_accuracy" in metrics
                else ""
            )
        )
        own = metrics.get("at_threshold")
        if own is not None:
            right = "" if own["accuracy"] is None else f", {own['accuracy']:.2%} of those correctly"
            out.print(
                f"At its own threshold of {own['threshold']:.3f} it decides about "
                f"{own['coverage']:.1%}{right}, and abstains from the rest"
            )
        reached = metrics.get("at_wanted_accuracy") or {"threshold": None}
        if reached["threshold"] is not None and reached["coverage"] < 1:
            num = round(reached["coverage"] * metrics["num_images"])
            out.print(
                f"With a threshold of {reached['threshold']:.3f}, {reached['coverage']:.1%} "
                f"({counted(num, 'image')}) are decided and {reached['accuracy']:.2%} of those are "
                "correct"
            )
    table = Table(box=None, pad_edge=False)
    table.add_column("label")
    columns = {"precision": "precision", "recall": "recall", "f1": "F1"}
    if metrics["task"] == "multilabel":
        columns |= {"average_precision": "avg. precision", "auc": "AUC", "threshold": "threshold"}
    counts = {"support": "images"} | (
        {"abstained": "abstained"} if "at_threshold" in metrics else {}
    )
    for name in (*columns.values(), *counts.values()):
        table.add_column(name, justify="right")
    for label, row in metrics["per_class"].items():
        numbers = [_number(row[key]) for key in columns]
        table.add_row(Folded(escape(label)), *numbers, *[str(row[key]) for key in counts])
    out.print(table)
    for skipped in metrics.get("skipped", ()):
        err.print(f"skipped {escape(skipped['path'])}: {escape(skipped['reason'])}")


def print_groups(groups: Mapping[str, Any], *, every: bool) -> None:
    """Prints accuracy by group, or names the groups that are worse than the others."""
    measure = "a true label in top 3" if groups["measure"] == "top3_accuracy" else "accuracy"
    if not every:
        for name, rows in groups["by"].items():
            for row in rows:
                if row["worse"]:
                    out.print(
                        f"[yellow]Worse than the others[/]: {escape(name)} {escape(row['group'])}, "
                        f"{measure} {row['accuracy']:.1%} of {row['num_images']} images "
                        f"({row['low']:.1%} to {row['high']:.1%}); --groups prints all"
                    )
        return
    if not groups["by"]:
        out.print("The images are of one size, brightness and shape; there are no groups")
    for name, rows in groups["by"].items():
        table = Table(box=None, pad_edge=False)
        table.add_column(escape(name))
        for column in ("images", measure, "95 % interval"):
            table.add_column(column, justify="right")
        is_deciding = "coverage" in rows[0]
        if is_deciding:
            table.add_column("decided", justify="right")
            table.add_column("of these right", justify="right")
        table.add_column("")
        for row in rows:
            remark = "[yellow]worse than the others[/]" if row["worse"] else ""
            cells: list[str | Folded] = [Folded(escape(row["group"])), str(row["num_images"])]
            if row["too_small"]:
                table.add_row(*cells, "too few images")
                continue
            cells += [f"{row['accuracy']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}"]
            if is_deciding:
                right = row["decided_accuracy"]
                cells += [f"{row['coverage']:.1%}", "-" if right is None else f"{right:.1%}"]
            table.add_row(*cells, remark)
        out.print()
        out.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
