"""`limelens train`, `evaluate`, `export` and `synthesize`."""

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
from rich.table import Table

from limelens.cli.data_options import Data, Images
from limelens.cli.printing import AsJson, err, out, print_json, progress_bar
from limelens.serve.errors import LimelensError

if TYPE_CHECKING:
    from limelens.train.examples import Dataset


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
        typer.Option(help="One label a picture or several.", show_default="what DATA looks like"),
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
            help="strong is for models that meet pictures from other sources. Look at it with "
            "--preview."
        ),
    ] = "standard",
    min_crop: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Least share of a picture that a random crop keeps.",
            show_default="the preset's",
        ),
    ] = 0.0,
    mix: Annotated[
        Literal["none", "mixup", "cutmix", "both"],
        typer.Option(help="Mix pictures of a batch with each other."),
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
        int, typer.Option(min=0, help="Processes that read pictures; 0 reads in this one.")
    ] = 0,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG", help="Only write a sheet of augmented pictures, then look at it."
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
    """Trains a classifier on pictures with labels.

    DATA is a folder of label folders, a folder that holds train, val and test folders of them,
    or a table (csv, tsv) of pictures and labels: one-hot columns, or a column with a list. Data
    without val gets one: a tenth of the pictures, near-duplicates kept together. The run's folder
    holds best.pt, last.pt, metrics.csv, curves.png, confusion.png and config.json; Ctrl-C leaves
    a usable last.pt. Several processes or machines: torchrun --nproc-per-node 4 -m limelens.cli
    train ...

    Example: limelens train photos --out runs/photos --epochs 30 --alert-label intruder
    """
    from limelens.train.config import TrainConfig, read_config, settings_from
    from limelens.train.training import train as run_training

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
    if preview is not None:
        from limelens.train.previewing import preview as write_preview

        write_preview(data, preview, chosen, images=images)
        if as_json:
            print_json({"preview": str(preview)})
        else:
            out.print(f"Wrote {escape(str(preview))}: each row an original and nine variations.")
        return
    if find_learning_rate is not None:
        from limelens.train.learning_rate import find_learning_rate as find

        found = find(data, chosen, find_learning_rate, images=images)
        if as_json:
            print_json({"learning_rate": found, "plot": str(find_learning_rate)})
        else:
            out.print(
                f"The loss falls fastest at [bold]{found:.1e}[/]; {escape(str(find_learning_rate))}"
                " shows it. Try it as --learning-rate."
            )
        return
    run = run or Path("runs") / f"{data.resolve().stem}-{chosen.arch}"
    with _one_voice(), Bar(chosen.epochs, shown=_is_first()) as bar:
        report = run_training(data, run, chosen, bar, images=images, macro=macro, resume=resume)
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
    from limelens.train.training import TrainingError

    try:
        yield
    except LimelensError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0" and not isinstance(error, TrainingError):
            time.sleep(10)
        raise


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


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
    wanted_accuracy: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Show the threshold at which so many are right."),
    ] = 0.95,
    predictions: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Also write a row for every picture.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="HTML", help="Also write a page: figures, and the worst mistakes explained."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measures a checkpoint or a bundle on pictures that have labels.

    The undivided folder that a model was trained on is divided again as it was then: what is
    measured is the tenth that training never saw.

    Example: limelens evaluate models/facemask/1/model.onnx DATA --split test
    """
    from limelens.train.evaluating import assess

    evaluation = assess(
        run_or_model, data, split=split, images=images, wanted_accuracy=wanted_accuracy
    )
    if predictions is not None:
        from limelens.train.predictions import write_predictions

        write_predictions(evaluation, predictions, data=data)
    if report is not None:
        from limelens.train.inspecting import inspect
        from limelens.train.report import report_on

        inspection = inspect(data, images=images, run_or_model=run_or_model)
        report_on(run_or_model, evaluation, report, inspection=inspection)
    if as_json:
        print_json(evaluation.figures)
        return
    print_figures(evaluation.figures)
    for written in (predictions, report):
        if written is not None:
            out.print(f"Wrote {escape(str(written))}")


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
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="int8 is calibrated on training pictures. Both are measured."),
    ] = "fp32",
    max_accuracy_drop: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="How far fp16 or int8 may fall below fp32 on validation, in percentage points "
            "(multilabel: of mean average precision).",
        ),
    ] = 0.5,
    wanted_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Abstain below the probability at which so many decided validation pictures "
            "are right.",
            show_default="never abstain",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Writes a run as a bundle: models/NAME/VERSION/model.onnx.

    The graph holds normalisation, softmax and calibration; it is compared with the PyTorch
    network on the validation pictures and written only if they agree. fp16 and int8 are made of
    that graph, and written only if they keep its accuracy; size and speed are printed beside
    fp32's.

    Example: limelens export runs/photos --name photos
    """
    from limelens.train.exporting import export as run_export

    report = run_export(
        run,
        name,
        models=models,
        data=data,
        note=note,
        precision=precision,
        max_accuracy_drop=max_accuracy_drop,
        wanted_accuracy=wanted_accuracy,
    )
    if as_json:
        print_json(report)
    else:
        out.print(
            f"Wrote [bold]{escape(report['path'])}[/]: {report['model']} version "
            f"{report['version']}, {report['size_bytes'] / 1e6:.1f} MB, {report['precision']}; "
            f"probabilities differ from PyTorch's by at most {report['max_abs_difference']:.1e}."
        )
        if report["threshold"]:
            out.print(f"It abstains below a probability of {report['threshold']:.3f}.")
        if "fp32" in report:
            _print_variant(report)
        out.print(f"Next: limelens serve --models {escape(str(models))}")


def calibrate(
    run: Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)],
    data: Data,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    images: Images = None,
    as_json: AsJson = False,
) -> None:
    """Makes a run's probabilities believable for other pictures than it was trained on.

    Fits temperature, label bias and thresholds of the run's best checkpoint anew, on some hundred
    labelled pictures of the place where it will work. Then export it.

    Example: limelens calibrate runs/photos PICTURES_OF_THE_PLACE
    """
    from limelens.train.calibrating import calibrate as run_calibration

    figures = run_calibration(run, data, split=split, images=images)
    if as_json:
        print_json(figures)
        return
    print_figures({**figures, "split": "fitted on these"})
    out.print(f"Temperature {figures['temperature']:.3f}. Next: limelens export {escape(str(run))}")


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


def _print_variant(report: Mapping[str, Any]) -> None:
    """Prints a variant beside fp32."""
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


def print_figures(figures: Mapping[str, Any]) -> None:
    """Prints what an evaluation found, as a table."""
    where = f" ({figures['split']})" if "split" in figures else ""
    if figures["task"] == "multilabel":
        out.print(
            f"Macro AUC [bold]{_known(figures['macro_auc'])}[/], mean average precision "
            f"{_known(figures['mean_average_precision'])} on {figures['num_images']} "
            f"pictures{where}; loss {figures['loss']:.4f} (base rates alone: "
            f"{figures['base_rate_loss']:.4f}), micro F1 {figures['micro_f1']:.3f}"
        )
    else:
        out.print(
            f"[bold]{figures['accuracy']:.2%}[/] of {figures['num_images']} pictures right{where}; "
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
    for name in (*columns.values(), "pictures"):
        table.add_column(name, justify="right")
    for label, row in figures["per_class"].items():
        table.add_row(escape(label), *[_known(row[key]) for key in columns], str(row["support"]))
    out.print(table)
    for skipped in figures.get("skipped", ()):
        err.print(f"left out {escape(skipped['path'])}: {escape(skipped['reason'])}")


def _known(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


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
        err.print(f"{len(dataset.labels)} labels; pictures: {counts}")
        if dataset.crossing:
            path, twin = dataset.crossing[0]
            err.print(
                f"[yellow]{len(dataset.crossing)} pictures of val or test have a near-duplicate in "
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
