"""`limelens train`, `evaluate`, `export` and `synthesize`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from limelens.cli.printing import AsJson, err, out, print_json

if TYPE_CHECKING:
    from limelens.train.data import Dataset

Data = Annotated[
    Path,
    typer.Argument(
        help="A folder of label folders, or one that holds train, val (or validation) and test "
        "folders of them.",
        show_default=False,
    ),
]


def _size(text: str) -> tuple[int, int]:
    """Reads 112 or 96x128 (height x width)."""
    parts = text.lower().split("x")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise typer.BadParameter(f"{text!r}; expected pixels such as 112 or 96x128")
    return numbers[0], numbers[-1]


def train(
    data: Data,
    run: Annotated[
        Path | None,
        typer.Option("--out", help="The run's folder.", show_default="runs/DATA-ARCH"),
    ] = None,
    arch: Annotated[
        str, typer.Option(help="A torchvision classifier by name, or cnn3.")
    ] = "mobilenet_v3_small",
    input_size: Annotated[
        str | None,
        typer.Option(help="Input in pixels: 112 or 96x128.", show_default="112; cnn3: 256"),
    ] = None,
    resize_mode: Annotated[
        Literal["stretch", "crop", "pad"],
        typer.Option(help="How pictures of another shape are fitted; crop takes the centre."),
    ] = "stretch",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training pictures.")] = 24,
    batch_size: Annotated[int, typer.Option(min=2, help="Pictures in a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="The schedule's highest.")] = 2e-3,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="AdamW's.")] = 0.05,
    schedule: Annotated[
        Literal["one-cycle", "cosine"], typer.Option(help="Of the learning rate.")
    ] = "one-cycle",
    label_smoothing: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Share of a target spread over all labels.")
    ] = 0.05,
    ema_decay: Annotated[
        float, typer.Option(help="Of the averaged weights that are kept; 0 for none.")
    ] = 0.99,
    augment: Annotated[
        Literal["none", "light", "standard", "strong"],
        typer.Option(
            help="strong is for models that meet pictures from other sources. Look at it with "
            "--preview."
        ),
    ] = "standard",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from ImageNet weights (downloaded).")
    ] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Start from the weights of another run of that --arch."),
    ] = None,
    alert_label: Annotated[
        list[str] | None,
        typer.Option(help="A label that somebody must be told of; may be repeated."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same result.")
    ] = 0,
    num_workers: Annotated[
        int, typer.Option(min=0, help="Processes that read pictures; 0 reads in this one.")
    ] = 0,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG", help="Only write a sheet of augmented pictures, then look at it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Trains a classifier on a folder of pictures.

    DATA without val gets one: a tenth of the pictures, near-duplicates kept together. The run's
    folder holds best.pt, last.pt, metrics.csv, curves.png, confusion.png and config.json; Ctrl-C
    leaves a usable last.pt.

    Example: limelens train photos --out runs/photos --epochs 30 --alert-label intruder
    """
    from limelens.serve.image import ResizeMode
    from limelens.train.training import TrainConfig
    from limelens.train.training import preview as write_preview
    from limelens.train.training import train as run_training

    config = TrainConfig(
        arch=arch,
        input_size=None if input_size is None else _size(input_size),
        resize_mode=ResizeMode(resize_mode),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule=schedule,
        label_smoothing=label_smoothing,
        ema_decay=ema_decay,
        augment=augment,
        pretrained=pretrained,
        start_from=None if start_from is None else str(start_from),
        alert_labels=tuple(alert_label or ()),
        seed=seed,
        num_workers=num_workers,
    )
    if preview is not None:
        write_preview(data, preview, config)
        if as_json:
            print_json({"preview": str(preview)})
        else:
            out.print(f"Wrote {escape(str(preview))}: each row an original and nine variations.")
        return
    run = run or Path("runs") / f"{data.resolve().name}-{arch}"
    with _Bar(config.epochs) as bar:
        report = run_training(data, run, config, bar)
    if as_json:
        print_json(report)
    else:
        _print_training(report)
    if report["interrupted"]:
        raise typer.Exit(1)


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
    as_json: AsJson = False,
) -> None:
    """Measures a checkpoint or a bundle on pictures that have labels.

    The undivided folder that a model was trained on is divided again as it was then: what is
    measured is the tenth that training never saw.

    Example: limelens evaluate models/facemask/1/model.onnx DATA --split test
    """
    from limelens.train.evaluating import evaluate as run_evaluation

    figures = run_evaluation(run_or_model, data, split=split)
    if as_json:
        print_json(figures)
    else:
        print_figures(figures)


def export(
    run: Annotated[
        Path, typer.Argument(help="A run's folder or a .pt checkpoint.", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="The model's name in the repository.")],
    models: Annotated[Path, typer.Option(help="The model repository.")] = Path("models"),
    data: Annotated[
        Path | None,
        typer.Option(help="The training data, if it has moved.", show_default="as trained on"),
    ] = None,
    note: Annotated[str, typer.Option(help="A sentence for the model card.")] = "",
    as_json: AsJson = False,
) -> None:
    """Writes a run as a bundle: models/NAME/VERSION/model.onnx.

    The graph holds normalisation, softmax and calibration; it is compared with the PyTorch
    network on the validation pictures and written only if they agree.

    Example: limelens export runs/photos --name photos
    """
    from limelens.train.exporting import export as run_export

    report = run_export(run, name, models=models, data=data, note=note)
    if as_json:
        print_json(report)
    else:
        out.print(
            f"Wrote [bold]{escape(report['path'])}[/]: {report['model']} version "
            f"{report['version']}, {report['size_bytes'] / 1e6:.1f} MB, {report['precision']}; "
            f"probabilities differ from PyTorch's by at most {report['max_abs_difference']:.1e}."
        )
        out.print(f"Next: limelens serve --models {escape(str(models))}")


def synthesize(
    folder: Annotated[Path, typer.Argument(help="Made and filled.", show_default=False)],
    num_images: Annotated[int, typer.Option(min=10, help="For each label, all splits.")] = 500,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same result.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Draws faces with and without masks, for trying out the whole chain without any data."""
    from limelens.train.synthetic import write_dataset

    write_dataset(folder, num_images, seed)
    if as_json:
        print_json({"data": str(folder), "num_images_per_label": num_images, "seed": seed})
    else:
        out.print(f"Wrote {2 * num_images} pictures to {escape(str(folder))}.")


def scenes(
    data: Annotated[
        Path,
        typer.Argument(
            help="Splits with the labels with_mask and without_mask.", show_default=False
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", help="Made and filled.")],
    num_scenes: Annotated[int, typer.Option(min=0, help="Half-length scenes of each face.")] = 2,
    hidden: Annotated[
        bool,
        typer.Option("--hidden", help="Also with segments hidden, so that the mask decides."),
    ] = False,
    num_workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same result.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Makes a face-mask set harder: the same faces with masks, hands, scarves, at half length.

    In collected sets bare faces are mostly tight crops, so that a network learns how much of a
    person it sees. Each bare face that is found is added again, with and without a drawn mask,
    to train and val; test stays as it is.
    """
    from limelens.train.scenes import add_scenes

    counts = add_scenes(
        data, folder, seed=seed, num_scenes=num_scenes, hidden=hidden, num_workers=num_workers
    )
    if as_json:
        print_json(
            {
                "data": str(folder),
                "seed": seed,
                "added": {split: count.pictures for split, count in counts.items()},
            }
        )
        return
    for split, count in counts.items():
        out.print(f"{split}: {count.pictures} pictures of {count.faces} faces added")


def print_figures(figures: Mapping[str, Any]) -> None:
    """Prints what an evaluation found, as a table."""
    out.print(
        f"[bold]{figures['accuracy']:.2%}[/] of {figures['num_images']} pictures right"
        + (f" ({figures['split']})" if "split" in figures else "")
        + f"; loss {figures['loss']:.3f}, calibration error {figures['ece']:.3f}"
        + (
            f", among the first five {figures['top5_accuracy']:.2%}"
            if len(figures["labels"]) > 5
            else ""
        )
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("label")
    for name in ("precision", "recall", "F1", "pictures"):
        table.add_column(name, justify="right")
    for label, row in figures["per_class"].items():
        numbers = [f"{row[key]:.3f}" for key in ("precision", "recall", "f1")]
        table.add_row(escape(label), *numbers, str(row["support"]))
    out.print(table)
    for skipped in figures.get("skipped", ()):
        err.print(f"left out {escape(skipped['path'])}: {escape(skipped['reason'])}")


def _print_training(report: Mapping[str, Any]) -> None:
    if report["interrupted"]:
        err.print(f"Stopped after {report['epochs']} epochs.")
    out.print(
        f"[bold]{escape(report['checkpoint'])}[/] after {report['epochs']} epochs and "
        f"{report['seconds']:.0f} s"
    )
    if report["val"]:
        print_figures({**report["val"], "split": "validation"})
        out.print(f"Next: limelens export {escape(report['run'])} --name NAME")
    for skipped in report["skipped"]:
        err.print(f"left out {escape(skipped['path'])}: {escape(skipped['reason'])}")


class _Bar:
    """Shows a run: a bar on a terminal, a line per epoch everywhere."""

    def __init__(self, num_epochs: int) -> None:
        self._num_epochs = num_epochs
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[num_epochs]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.1%}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=None, epoch=1, num_epochs=num_epochs, loss=0.0, accuracy=0.0
        )

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def data_read(self, dataset: Dataset) -> None:
        counts = ", ".join(
            f"{len(dataset.splits[split])} {split}"
            for split in ("train", "val", "test")
            if split in dataset.splits
        )
        err.print(f"{len(dataset.labels)} labels; pictures: {counts}")
        if dataset.crossing:
            path, twin = dataset.crossing[0]
            err.print(
                f"[yellow]{len(dataset.crossing)} pictures of val or test have a near-duplicate in "
                f"train, such as {escape(str(path))} and {escape(str(twin))}: their figures flatter"
                "[/]"
            )

    def step(self, epoch: int, step: int, num_steps: int, loss: float, accuracy: float) -> None:
        self._bar.update(
            self._task, completed=step, total=num_steps, epoch=epoch, loss=loss, accuracy=accuracy
        )

    def epoch_done(self, row: Mapping[str, float]) -> None:
        err.print(
            f"epoch {row['epoch']:3.0f}/{self._num_epochs}  "
            f"train loss {row['train_loss']:.3f} accuracy {row['train_accuracy']:.1%}   "
            f"val loss {row['val_loss']:.3f} accuracy {row['val_accuracy']:.1%}"
        )
