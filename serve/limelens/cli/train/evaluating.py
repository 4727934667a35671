"""`limelens evaluate` and `limelens calibrate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from limelens.cli.options.data_options import (
    Columns,
    Data,
    ImageColumn,
    Images,
    LabelColumn,
    Separator,
    table_options,
)
from limelens.cli.terminal.by_products import ByProducts
from limelens.cli.terminal.printing import AsJson, err, out, print_json
from limelens.serve.wording import counted


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
    images: Images = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    columns: Columns = None,
    separator: Separator = None,
    wanted_accuracy: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Show the threshold at which so many are right."),
    ] = 0.95,
    predictions: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Also write a row for every image.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="HTML", help="Also write a page: figures, and the worst mistakes explained."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measures a checkpoint or a bundle on images that have labels.

    The undivided folder that a model was trained on is divided again as it was then: what is
    measured is the tenth that training never saw.

    Example: limelens evaluate models/facemask/1/model.onnx DATA --split test
    """
    from limelens.train.runs import check_run_or_model, check_split

    table = table_options(images, image_column, label_column, columns, separator)
    # Before torch is loaded, which takes seconds.
    check_run_or_model(run_or_model)
    check_split(data, split, table)
    from limelens.train.evaluation.evaluate import assess

    evaluation = assess(
        run_or_model, data, split=split, images=table, wanted_accuracy=wanted_accuracy
    )
    beside = ByProducts()
    if predictions is not None:
        from limelens.train.report.predictions import write_predictions

        with beside.writing(predictions):
            write_predictions(evaluation, predictions, data=data)
    if report is not None:
        from limelens.train.audit.inspection import inspect
        from limelens.train.report.page import report_on

        inspection = inspect(data, images=table, run_or_model=run_or_model)
        with beside.writing(report):
            report_on(run_or_model, evaluation, report, inspection=inspection)
    if as_json:
        print_json(evaluation.figures)
    else:
        print_figures(evaluation.figures)
        for written in beside.written:
            out.print(f"Wrote {escape(str(written))}")
    beside.check()


def calibrate(
    run: Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)],
    data: Data,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    images: Images = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    columns: Columns = None,
    separator: Separator = None,
    as_json: AsJson = False,
) -> None:
    """Makes a run's probabilities believable for other images than it was trained on.

    Fits temperature, label bias and thresholds of the run's best checkpoint anew, on some hundred
    labelled images of the place where it will work. Then export it.

    Example: limelens calibrate runs/photos IMAGES_OF_THE_PLACE
    """
    from limelens.train.runs import check_run, check_split

    table = table_options(images, image_column, label_column, columns, separator)
    check_run(run)
    check_split(data, split, table)
    from limelens.train.evaluation.calibration import calibrate as run_calibration

    figures = run_calibration(run, data, split=split, images=table)
    if as_json:
        print_json(figures)
        return
    print_figures({**figures, "split": "fitted on these"})
    out.print(f"Temperature {figures['temperature']:.3f}. Next: limelens export {escape(str(run))}")


def print_figures(figures: Mapping[str, Any]) -> None:
    """Prints what an evaluation found, as a table."""
    where = f" ({figures['split']})" if "split" in figures else ""
    if figures["task"] == "multilabel":
        out.print(
            f"Macro AUC [bold]{_known(figures['macro_auc'])}[/], mean average precision "
            f"{_known(figures['mean_average_precision'])} on {figures['num_images']} "
            f"images{where}; loss {figures['loss']:.4f} (base rates alone: "
            f"{figures['base_rate_loss']:.4f}), micro F1 {figures['micro_f1']:.3f}"
        )
    else:
        out.print(
            f"[bold]{figures['accuracy']:.2%}[/] of {counted(figures['num_images'], 'image')} "
            f"right{where}; "
            f"loss {figures['loss']:.3f}, calibration error {figures['ece']:.3f}"
            + (
                f", among the first five {figures['top5_accuracy']:.2%}"
                if len(figures["labels"]) > 5
                else ""
            )
            + (
                f", macro label right {figures['macro_label_accuracy']:.2%}"
                if "macro_label_accuracy" in figures
                else ""
            )
        )
        reached = figures.get("at_wanted_accuracy") or {"threshold": None}
        if reached["threshold"] is not None and reached["coverage"] < 1:
            out.print(
                f"With a threshold of {reached['threshold']:.3f}, {reached['coverage']:.1%} are "
                f"decided and {reached['accuracy']:.2%} of those right"
            )
    table = Table(box=None, pad_edge=False)
    table.add_column("label")
    columns = {"precision": "precision", "recall": "recall", "f1": "F1"}
    if figures["task"] == "multilabel":
        columns |= {"average_precision": "avg. precision", "auc": "AUC", "threshold": "threshold"}
    for name in (*columns.values(), "images"):
        table.add_column(name, justify="right")
    for label, row in figures["per_class"].items():
        table.add_row(escape(label), *[_known(row[key]) for key in columns], str(row["support"]))
    out.print(table)
    for skipped in figures.get("skipped", ()):
        err.print(f"left out {escape(skipped['path'])}: {escape(skipped['reason'])}")


def _known(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
