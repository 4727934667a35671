"""`limelens train`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.progress import TextColumn

from limelens.cli.options.data_options import (
    Columns,
    Data,
    ImageColumn,
    Images,
    LabelColumn,
    Separator,
    table_options,
)
from limelens.cli.terminal.printing import AsJson, err, out, print_json, progress_bar
from limelens.cli.train.evaluating import print_figures
from limelens.serve.errors import LimelensError
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.train.data.examples import Dataset


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
    context: typer.Context,
    data: Data,
    run: Annotated[
        Path | None,
        typer.Option("--out", help="The run's folder.", show_default="runs/DATA-ARCH"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="TOML", help="Settings by the names of these options; options given go first."
        ),
    ] = None,
    images: Images = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    columns: Columns = None,
    separator: Separator = None,
    macro: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="A table of label and macro label.",
            show_default="macro.csv in DATA, if there",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with a run that was broken off, in the same --out."),
    ] = False,
    task: Annotated[
        Literal["multiclass", "multilabel"] | None,
        typer.Option(help="One label an image or several.", show_default="what DATA looks like"),
    ] = None,
    val_from_train: Annotated[
        bool,
        typer.Option(
            "--val-from-train",
            help="Choose on a tenth of train; the data's own val stays unseen for evaluate.",
        ),
    ] = False,
    arch: Annotated[
        str, typer.Option(help="A torchvision classifier by name, or cnn3 or cnn4.")
    ] = "mobilenet_v3_small",
    input_size: Annotated[
        str | None,
        typer.Option(help="Input in pixels: 112 or 96x128.", show_default="112; cnn3: 256"),
    ] = None,
    resize_mode: Annotated[
        Literal["stretch", "crop", "pad"],
        typer.Option(help="How images of another shape are fitted; crop takes the centre."),
    ] = "stretch",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 24,
    batch_size: Annotated[int, typer.Option(min=2, help="Images in a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="The schedule's highest.")] = 2e-3,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="AdamW's.")] = 0.05,
    schedule: Annotated[
        Literal["one-cycle", "cosine"], typer.Option(help="Of the learning rate.")
    ] = "one-cycle",
    label_smoothing: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Share of a target spread over all labels.")
    ] = 0.05,
    dropout: Annotated[float, typer.Option(min=0.0, max=0.99, help="Before the last layer.")] = 0.0,
    ema_decay: Annotated[
        float, typer.Option(help="Of the averaged weights that are kept; 0 for none.")
    ] = 0.99,
    patience: Annotated[
        int, typer.Option(min=0, help="Stop after so many epochs without a better one; 0 never.")
    ] = 0,
    augment: Annotated[
        Literal["none", "light", "standard", "strong"],
        typer.Option(
            help="strong is for models that meet images from other sources. Look at it with "
            "--preview."
        ),
    ] = "standard",
    min_crop: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Least share of an image that a random crop keeps.",
            show_default="the preset's",
        ),
    ] = 0.0,
    mix: Annotated[
        Literal["none", "mixup", "cutmix", "both"],
        typer.Option(help="Mix images of a batch with each other."),
    ] = "none",
    balance: Annotated[
        Literal["none", "sample", "weight"],
        typer.Option(help="Unbalanced labels: show rare ones more often, or give them weight."),
    ] = "none",
    mixed_precision: Annotated[
        Literal["auto", "off", "bf16"],
        typer.Option(help="Compute in bfloat16; auto does on a GPU that can."),
    ] = "auto",
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
        int, typer.Option(min=0, help="Processes that read images; 0 reads in this one.")
    ] = 0,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG", help="Only write a sheet of augmented images, then look at it."
        ),
    ] = None,
    find_learning_rate: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG", help="Only try learning rates from low to high and draw the loss."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Trains a classifier on images with labels.

    DATA is a folder of label folders, a folder that holds train, val and test folders of them,
    or a table (csv, tsv) of images and labels: one-hot columns, or a column with a list. Data
    without val gets one: a tenth of the images, near-duplicates kept together. The run's folder
    holds best.pt, last.pt, metrics.csv, curves.png, confusion.png and config.json; Ctrl-C leaves
    a usable last.pt. Several processes or machines: torchrun --nproc-per-node 4 -m limelens.cli
    train ...

    Example: limelens train photos --out runs/photos --epochs 30
    """
    from limelens.train.config import TrainConfig, read_config, settings_from
    from limelens.train.runs import check_training

    given = {
        "task": task,
        "val_from_train": val_from_train,
        "arch": arch,
        "input_size": None if input_size is None else list(_size(input_size)),
        "resize_mode": resize_mode,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "label_smoothing": label_smoothing,
        "dropout": dropout,
        "ema_decay": ema_decay,
        "patience": patience,
        "augment": augment,
        "min_crop": min_crop,
        "mix": mix,
        "balance": balance,
        "mixed_precision": mixed_precision,
        "pretrained": pretrained,
        "start_from": None if start_from is None else str(start_from),
        "alert_labels": list(alert_label or ()),
        "seed": seed,
        "num_workers": num_workers,
    }
    with _one_voice():
        options = {name: value for name, value in given.items() if value is not None}
        settings = settings_from(options, "the command line")
        if config is not None:
            # Options that were left out do not push aside what the file says.
            said = {
                name
                for name in settings
                if _was_given(context, "alert_label" if name == "alert_labels" else name)
            }
            settings |= {
                name: value for name, value in read_config(config).items() if name not in said
            }
        chosen = TrainConfig(**settings)
        table = table_options(images, image_column, label_column, columns, separator)
        run = run or Path("runs") / f"{data.resolve().stem}-{chosen.arch}"
        is_run = preview is None and find_learning_rate is None
        # Before torch is loaded, which takes seconds.
        check_training(data, run, chosen, images=table, macro=macro, resume=resume or not is_run)
    if preview is not None:
        from limelens.train.training.preview import preview as write_preview

        write_preview(data, preview, chosen, images=table)
        if as_json:
            print_json({"preview": str(preview)})
        else:
            out.print(f"Wrote {escape(str(preview))}: each row an original and nine variations.")
        return
    if find_learning_rate is not None:
        from limelens.train.training.learning_rate import find_learning_rate as find

        found = find(data, chosen, find_learning_rate, images=table)
        if as_json:
            print_json({"learning_rate": found, "plot": str(find_learning_rate)})
        else:
            out.print(
                f"The loss falls fastest at [bold]{found:.1e}[/]; {escape(str(find_learning_rate))}"
                " shows it. Try it as --learning-rate."
            )
        return
    from limelens.train.training.loop import train as run_training

    with _one_voice(), Bar(chosen.epochs, shown=_is_first()) as bar:
        report = run_training(data, run, chosen, bar, images=table, macro=macro, resume=resume)
    if "checkpoint" not in report:
        # One of several processes; the first one reports.
        return
    if as_json:
        print_json(report)
    else:
        _print_training(report)
    if report["interrupted"]:
        raise typer.Exit(1)


def _is_first() -> bool:
    """Whether this process is the only one or the first that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _one_voice() -> Iterator[None]:
    """Lets the first process of a machine tell what all of them ran into.

    torchrun ends the others when one has failed: whoever is still there after some seconds has an
    error of its own to tell.
    """
    try:
        yield
    except LimelensError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            from limelens.train.training.loop import TrainingError

            if not isinstance(error, TrainingError):
                time.sleep(10)
        raise


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _print_training(report: Mapping[str, Any]) -> None:
    if report["interrupted"]:
        err.print(f"Stopped after {counted(report['epochs'], 'epoch')}.")
    out.print(
        f"[bold]{escape(report['checkpoint'])}[/] after {counted(report['epochs'], 'epoch')} and "
        f"{report['seconds']:.0f} s"
    )
    if report["val"]:
        print_figures({**report["val"], "split": "validation"})
        out.print(f"Next: limelens export {escape(report['run'])} --name NAME")
    for skipped in report["skipped"]:
        err.print(f"left out {escape(skipped['path'])}: {escape(skipped['reason'])}")


class Bar:
    """Shows a run: a bar on a terminal, a line per epoch everywhere."""

    def __init__(self, num_epochs: int, shown: bool = True) -> None:
        self._num_epochs = num_epochs
        self._bar = progress_bar(
            "epoch {task.fields[epoch]}/{task.fields[num_epochs]}",
            TextColumn("loss {task.fields[loss]:.3f}{task.fields[accuracy]}"),
        )
        self._bar.disable = self._bar.disable or not shown
        self._task = self._bar.add_task(
            "", total=None, epoch=1, num_epochs=num_epochs, loss=0.0, accuracy=""
        )

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def data_read(self, dataset: Dataset) -> None:
        """Says how much there is, and warns of what flatters."""
        counts = ", ".join(
            f"{len(dataset.splits[split])} {split}"
            for split in ("train", "val", "test")
            if split in dataset.splits
        )
        err.print(f"{counted(len(dataset.labels), 'label')}; images: {counts}")
        if dataset.crossing:
            path, twin = dataset.crossing[0]
            err.print(
                f"[yellow]{len(dataset.crossing)} images of val or test have a near-duplicate in "
                f"train, such as {escape(str(path))} and {escape(str(twin))}: their figures flatter"
                "[/]"
            )

    def step(
        self, epoch: int, step: int, num_steps: int, loss: float, accuracy: float | None
    ) -> None:
        """Moves the bar."""
        shown = "" if accuracy is None else f"  accuracy {accuracy:.1%}"
        self._bar.update(
            self._task, completed=step, total=num_steps, epoch=epoch, loss=loss, accuracy=shown
        )

    def epoch_done(self, row: Mapping[str, float]) -> None:
        """Prints the epoch's line."""
        sides = []
        for split in ("train", "val"):
            words = [f"{split} loss {row[f'{split}_loss']:.3f}"]
            if f"{split}_accuracy" in row:
                words.append(f"accuracy {row[f'{split}_accuracy']:.1%}")
            if f"{split}_macro_auc" in row:
                words.append(f"macro AUC {row[f'{split}_macro_auc']:.3f}")
            sides.append(" ".join(words))
        err.print(f"epoch {row['epoch']:3.0f}/{self._num_epochs}  " + "   ".join(sides))
