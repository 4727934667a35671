"""`limelens train`."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.markup import escape
from rich.progress import TextColumn

from limelens.cli.options.data_options import Data, DataTable, Seed, with_table_options
from limelens.cli.options.output_options import IMAGE, image_file, writable_folder
from limelens.cli.options.usage_errors import usage_of
from limelens.cli.terminal.printing import AsJson, Bar, err, out, print_json, print_next
from limelens.cli.train.evaluating import print_metrics
from limelens.serve.errors import LimelensError
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.train.config import TrainConfig
    from limelens.train.data.examples import Dataset

_PLOTS: Final = (".jpeg", ".jpg", ".pdf", ".png", ".svg", ".webp")


def _size(text: str) -> tuple[int, int]:
    """Parses 112 or 96x128 (height x width)."""
    parts = text.lower().split("x")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise typer.BadParameter(f"{text!r}; expected pixels such as 112 or 96x128")
    return numbers[0], numbers[-1]


@with_table_options
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
            metavar="TOML", help="File of settings, named like these options, which override it."
        ),
    ] = None,
    table: DataTable = None,
    macro: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="A table of labels and their superclasses.",
            show_default="macro.csv in DATA, if it exists",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an interrupted run in --out."),
    ] = False,
    task: Annotated[
        Literal["multiclass", "multilabel"] | None,
        typer.Option(help="One label per image or several.", show_default="decided by DATA"),
    ] = None,
    val_from_train: Annotated[
        bool,
        typer.Option(
            "--val-from-train",
            help="Validate on a tenth of train; the data's own val stays unseen for evaluate.",
        ),
    ] = False,
    arch: Annotated[
        str,
        typer.Option(
            help="Name of a torchvision classifier, or resnet_tiny, resnet_slim, cnn3 or cnn4."
        ),
    ] = "mobilenet_v3_small",
    input_size: Annotated[
        str | None,
        typer.Option(
            help="Input size in pixels, such as 112 or 96x128 (height x width).",
            show_default="by --arch, mostly 112; oblong like the images",
        ),
    ] = None,
    resize_mode: Annotated[
        Literal["stretch", "crop", "pad"],
        typer.Option(help="How to fit images of another shape; crop keeps the centre."),
    ] = "stretch",
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Passes over the training images.",
            show_default="24 to 90, more for few images",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=2, help="Images per step.", show_default="16 up to 1,000 training images, else 32"
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Highest learning rate of the schedule.",
            show_default="0.001 for batches up to 16, else 0.002",
        ),
    ] = None,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="Weight decay of AdamW.")] = 0.05,
    schedule: Annotated[
        Literal["one-cycle", "cosine"], typer.Option(help="Schedule of the learning rate.")
    ] = "one-cycle",
    label_smoothing: Annotated[
        float,
        typer.Option(min=0.0, max=0.99, help="Share of a target that is spread over all labels."),
    ] = 0.05,
    dropout: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Dropout before the last layer.")
    ] = 0.0,
    ema_decay: Annotated[
        float,
        typer.Option(
            help="Decay of the averaged weights that are kept; 0 keeps the plain weights."
        ),
    ] = 0.99,
    patience: Annotated[
        int,
        typer.Option(
            min=0, help="Stop after this many epochs without a better one; 0 never stops early."
        ),
    ] = 0,
    augment: Annotated[
        Literal["none", "light", "standard", "strong"],
        typer.Option(
            help="Augmentation of training images; strong is for models that will see images from "
            "other sources. --preview shows it."
        ),
    ] = "standard",
    min_crop: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Smallest share of an image that a random crop keeps.",
            show_default="the preset's",
        ),
    ] = 0.0,
    mix: Annotated[
        Literal["none", "mixup", "cutmix", "both"],
        typer.Option(help="Mix the images of a batch with each other."),
    ] = "none",
    balance: Annotated[
        Literal["none", "sample", "weight"],
        typer.Option(
            help="For unbalanced labels: sample rare ones more often, or give them more weight."
        ),
    ] = "none",
    mixed_precision: Annotated[
        Literal["auto", "off", "bf16"],
        typer.Option(
            help="Compute in bfloat16; auto does so if the device and the network gain by it."
        ),
    ] = "auto",
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="Start from ImageNet weights, which are downloaded."),
    ] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Start from the weights of another run with the same --arch."
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Learn also from the outputs of another run, mostly of a larger --arch, with the "
            "same labels.",
        ),
    ] = None,
    teacher_weight: Annotated[
        float, typer.Option(help="The teacher's share of the loss; the labels have the rest.")
    ] = 0.8,
    teacher_temperature: Annotated[
        float,
        typer.Option(help="Softens the outputs of both; higher shows more of the teacher's doubt."),
    ] = 2.0,
    alert_label: Annotated[
        list[str] | None,
        typer.Option(help="A label that raises an alert; may be repeated."),
    ] = None,
    seed: Seed = 0,
    num_workers: Annotated[
        int,
        typer.Option(min=0, help="Number of threads that decode images; 0 uses one for each core."),
    ] = 0,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar=IMAGE,
            help="Do not train; write a sheet of augmented images.",
            callback=image_file(),
        ),
    ] = None,
    find_learning_rate: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG|SVG|PDF",
            help="Do not train; try learning rates from low to high and plot the loss.",
            callback=image_file(suffixes=_PLOTS),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Trains a classifier on labelled images.

    DATA is a folder with one folder per label, a folder with train, val and test folders of them,
    or a table (csv, tsv) of images and labels: one-hot columns, or a column of lists. If there is
    no val, a tenth of the images becomes val, and, where there are no splits at all, another tenth
    test, for limelens evaluate; near-duplicates stay together. Epochs, batch size,
    learning rate and input size suit the data unless they are given. The run's folder
    holds best.pt, last.pt, metrics.csv, curves.png, confusion.png, report.html and config.json;
    Ctrl-C leaves a usable last.pt. For several processes or machines: torchrun --nproc-per-node 4
    -m limelens.cli train ...

    Example: limelens train photos --out runs/photos --epochs 30
    """
    # Options that were left out keep what the file or TrainConfig says.
    given = {name: value for name, value in locals().items() if _was_given(context, name)}
    if input_size is not None:
        given["input_size"] = list(_size(input_size))
    if start_from is not None:
        given["start_from"] = str(start_from)
    if teacher is not None:
        given["teacher"] = str(teacher)
    given["alert_labels"] = given.pop("alert_label", None)
    from limelens.train import run_lock
    from limelens.train.config import TrainConfig, read_config, settings_from
    from limelens.train.runs import ANOTHER_FOLDER, check_training, holds_run

    is_first = os.environ.get("RANK", "0") == "0"
    in_use = functools.partial(usage_of, "--out", run_lock.RunInUseError)
    with _reported_once():
        settings = read_config(config) if config is not None else {}
        names = [field.name for field in fields(TrainConfig) if given.get(field.name) is not None]
        settings |= settings_from({name: given[name] for name in names}, "the command line")
        with _naming_options(names):
            chosen = TrainConfig(**settings)
        run = run or Path("runs") / f"{data.resolve().stem}-{chosen.arch}"
        is_run = preview is None and find_learning_rate is None
        # All this is checked before torch is loaded, which takes seconds; the names of torchvision
        # are not known without it.
        if "arch" in names:
            _check_architecture(chosen.arch)
        if is_run and is_first:
            with in_use():
                run_lock.check_free(run, "" if resume else ANOTHER_FOLDER)
        check_training(data, run, chosen, images=table, macro=macro, resume=resume or not is_run)
        if is_run and is_first:
            writable_folder(run)
            if resume and not holds_run(run):
                err.print(f"{escape(str(run))} holds no run to resume: a new one begins.")
    if preview is not None:
        from limelens.train.training.preview import preview as write_preview

        write_preview(data, preview, chosen, images=table)
        if as_json:
            print_json({"preview": str(preview)})
        else:
            out.print(
                f"Wrote {escape(str(preview))}: each row shows an original and nine variations."
            )
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

    with _reported_once(), in_use(), TrainingBar(shown=is_first) as bar:
        report = run_training(data, run, chosen, bar, images=table, macro=macro, resume=resume)
    if "checkpoint" not in report:
        # This is one of several processes; the first one reports.
        return
    if as_json:
        print_json(report)
    else:
        _print_training(report)
    if report["interrupted"]:
        raise typer.Exit(1)


def _check_architecture(name: str) -> None:
    from limelens.train.architectures import ArchitectureError, check_architecture

    with usage_of("--arch", ArchitectureError):
        check_architecture(name)


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@contextmanager
def _naming_options(given: Collection[str]) -> Iterator[None]:
    """Names an option, in place of a setting, in errors about those of the command line."""
    from limelens.train.config import ConfigError

    try:
        yield
    except ConfigError as error:
        name, _, words = str(error).partition(" ")
        if name not in given:
            raise
        raise ConfigError(f"--{name.replace('_', '-')} {words}") from error


@contextmanager
def _reported_once() -> Iterator[None]:
    """Lets the first process of a machine report an error that all of them raise.

    torchrun ends the other processes when one has failed. A process that still runs after some
    seconds has an error of its own to report.
    """
    try:
        yield
    except (LimelensError, typer.BadParameter) as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            from limelens.train.training.loop import TrainingError

            if not isinstance(error, TrainingError):
                time.sleep(10)
        raise


def _print_training(report: Mapping[str, Any]) -> None:
    if report["interrupted"]:
        err.print(
            f"Stopped after {counted(report['epochs'], 'epoch')}; the same command with --resume "
            "goes on."
        )
    out.print(
        f"[bold]{escape(report['checkpoint'])}[/] after {counted(report['epochs'], 'epoch')} and "
        f"{report['seconds']:.0f} s"
    )
    if report["val"]:
        print_metrics({**report["val"], "split": "validation"})
        _print_verdict(report)
    for skipped in report["skipped"]:
        err.print(f"skipped {escape(skipped['path'])}: {escape(skipped['reason'])}")


def _print_verdict(report: Mapping[str, Any]) -> None:
    verdict = report["verdict"]
    if verdict["sentence"]:
        out.print(f"[bold red]{escape(verdict['sentence'])}[/]")
    if verdict["overfitted"]:
        out.print(
            "[yellow]Training images are recognised far better than validation images: the network "
            "learns them by heart (overfitting).[/]"
        )
    if verdict["advice"]:
        out.print("What may help:")
        for step in verdict["advice"]:
            out.print(f"  - {escape(step)}")
    if verdict["better_than_guessing"]:
        print_next(f"limelens export {report['run']} --name NAME")


class TrainingBar(Bar):
    """Shows a run: a bar on a terminal, and a line per epoch."""

    def __init__(self, num_epochs: int | None = None, shown: bool = True) -> None:
        super().__init__(
            "epoch {task.fields[epoch]}/{task.fields[num_epochs]}",
            TextColumn("loss {task.fields[loss]:.3f}{task.fields[accuracy]}"),
            **{"epoch": 1, "num_epochs": num_epochs, "loss": 0.0, "accuracy": ""},
        )
        self._num_epochs = num_epochs
        self.bar.disable = self.bar.disable or not shown

    def data_read(self, dataset: Dataset) -> None:
        """Prints the size of the data, and warns of near-duplicates across splits."""
        counts = ", ".join(
            f"{len(dataset.splits[split])} {split}"
            for split in ("train", "val", "test")
            if split in dataset.splits
        )
        err.print(f"{counted(len(dataset.labels), 'label')}; images: {counts}")
        if dataset.crossing:
            path, duplicate = dataset.crossing[0]
            err.print(
                f"[yellow]{len(dataset.crossing)} images of val or test have a near-duplicate in "
                f"train, such as {escape(str(path))} and {escape(str(duplicate))}: their "
                "metrics are too good[/]"
            )

    def settings_chosen(self, config: TrainConfig, summary: str) -> None:
        """Prints what was chosen for the data."""
        self._num_epochs = config.epochs
        self.bar.update(self.task, num_epochs=config.epochs)
        if summary:
            err.print(summary)

    def step(
        self, epoch: int, step: int, num_steps: int, loss: float, accuracy: float | None
    ) -> None:
        """Moves the bar."""
        shown = "" if accuracy is None else f"  accuracy {accuracy:.1%}"
        self.bar.update(
            self.task, completed=step, total=num_steps, epoch=epoch, loss=loss, accuracy=shown
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
