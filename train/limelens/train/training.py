"""Trains a network on a data folder and leaves a run folder behind.

It knows the recipe: optimiser, schedule, averaged weights, what is written after each epoch. It
does not know how data is found (`data`), what networks look like (`architectures`) or how figures
are computed (`metrics`).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limelens.serve.errors import LimelensError
from limelens.serve.image import ResizeMode, ResizeRule
from limelens.train import checkpoint
from limelens.train.architectures import Classifier, build, default_input_size
from limelens.train.augmentation import PRESETS, for_evaluation, for_training
from limelens.train.data import DataError, Dataset, Example, read_dataset
from limelens.train.loading import batches, read_pixels
from limelens.train.metrics import fit_temperature, multiclass_metrics, softmax
from limelens.train.plots import plot_confusion, plot_curves, write_sheet

SCHEDULES: Final = ("one-cycle", "cosine")
_EVALUATION_BATCH: Final = 64


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how a run comes out; `config.json` holds it.

    Args:
        arch: A name of `architectures()`.
        input_size: Height and width in pixels; None takes the architecture's.
        resize_mode: How pictures of another shape are fitted.
        epochs: At least 1.
        batch_size: At least 2.
        learning_rate: The highest of the schedule.
        weight_decay: AdamW's.
        schedule: `one-cycle` or `cosine`.
        label_smoothing: 0 to below 1.
        ema_decay: Of the averaged weights that are evaluated and kept, per step; 0 for none.
        augment: A preset of `augmentation`.
        pretrained: Start from torchvision's ImageNet weights.
        start_from: Start from the weights of another run's best checkpoint; its architecture and
            labels must be the same.
        alert_labels: Labels that somebody must be told of.
        seed: Of the split, the weights, the order and the augmentation.
        num_workers: Processes that read pictures; 0 reads in the training process.
    """

    arch: str = "mobilenet_v3_small"
    input_size: tuple[int, int] | None = None
    resize_mode: ResizeMode = ResizeMode.STRETCH
    epochs: int = 24
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    schedule: str = "one-cycle"
    label_smoothing: float = 0.05
    ema_decay: float = 0.99
    augment: str = "standard"
    pretrained: bool = False
    start_from: str | None = None
    alert_labels: tuple[str, ...] = ()
    seed: int = 0
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name, accepted, expected in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2"),
            ("learning_rate", self.learning_rate > 0, "more than 0"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "0 to below 1"),
            ("ema_decay", 0 <= self.ema_decay < 1, "0 to below 1"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("augment", self.augment in PRESETS, f"one of {', '.join(PRESETS)}"),
        ):
            if not accepted:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")
        if self.input_size is not None and min(self.input_size) < 32:
            raise ConfigError(f"input_size is {self.input_size}; expected at least 32 each")

    @property
    def resize(self) -> ResizeRule:
        """The input's size and how pictures are brought to it."""
        side = default_input_size(self.arch)
        return ResizeRule(*(self.input_size or (side, side)), self.resize_mode)

    def to_json(self) -> dict[str, Any]:
        """As plain values, the input size filled in."""
        values = dataclasses.asdict(self)
        values["resize_mode"] = self.resize_mode.value
        values["input_size"] = [self.resize.height, self.resize.width]
        values["alert_labels"] = list(self.alert_labels)
        return values


class TrainingError(LimelensError):
    """The run cannot go on."""


class ConfigError(LimelensError):
    """A setting has a value that cannot be used."""


class Progress(Protocol):
    """Whoever wants to follow a run."""

    def data_read(self, dataset: Dataset) -> None:
        """The data was read and divided."""

    def step(self, epoch: int, step: int, num_steps: int, loss: float, accuracy: float) -> None:
        """A step was made; loss and accuracy are the epoch's so far."""

    def epoch_done(self, row: Mapping[str, float]) -> None:
        """An epoch was finished; `row` is the one of metrics.csv."""


def train(
    data: Path, out: Path, config: TrainConfig | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Trains on a folder and writes a run.

    The run folder holds `config.json`, `metrics.csv`, `curves.png`, `confusion.png`,
    `report.json`, `best.pt` (highest validation accuracy, among equals the lowest loss) and
    `last.pt`.

    Args:
        data: As for `read_dataset`.
        out: The run's folder; made, and refused if it already holds a run.
        config: None takes the defaults.
        progress: Told of every step.

    Returns:
        `run`, `checkpoint`, `epochs` (finished ones), `val` (figures of the best checkpoint),
        `seconds`, `interrupted` (whether Ctrl-C ended it), `skipped`, `crossing` (pictures of
        val and test with the near-duplicate that each has in train).

    Raises:
        DataError: The data cannot be used.
        ConfigError: A setting cannot be used, or `out` holds a run.
        ArchitectureError: The network cannot be built.
        TrainingError: The loss is not finite.
    """
    start = time.monotonic()
    config = config or TrainConfig()
    if any((out / name).exists() for name in (checkpoint.BEST, checkpoint.LAST)):
        raise ConfigError(f"{out} already holds a run; choose another folder or take it away")
    torch.manual_seed(config.seed)
    dataset = read_dataset(data, seed=config.seed)
    unknown = sorted(set(config.alert_labels) - set(dataset.labels))
    if unknown:
        raise ConfigError(
            f"alert label {unknown[0]!r} is none of the labels {', '.join(dataset.labels)}"
        )
    if len(dataset.splits["train"]) < 2:
        raise DataError(f"{data} has one picture for training; expected more")
    if progress:
        progress.data_read(dataset)
    model = build(
        config.arch,
        len(dataset.labels),
        pretrained=config.pretrained,
        input_size=(config.resize.height, config.resize.width),
    )
    if config.start_from is not None:
        _start_from(model, Path(config.start_from), dataset.labels, config.arch)
    out.mkdir(parents=True, exist_ok=True)
    data = data.resolve()
    _write_json(out / "config.json", {**config.to_json(), "data": str(data)})
    run = _Run(model, data, dataset, config, out, progress)
    interrupted = False
    try:
        run.fit()
    except KeyboardInterrupt:
        interrupted = True
        run.save_last()
    return _finish(run, interrupted, time.monotonic() - start)


class _Run:
    """The state of a training run between epochs."""

    def __init__(
        self,
        model: Classifier,
        data: Path,
        dataset: Dataset,
        config: TrainConfig,
        out: Path,
        progress: Progress | None,
    ) -> None:
        self.data = data
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.dataset = dataset
        self.config = config
        self.out = out
        self.progress = progress
        self.rows: list[dict[str, float]] = []
        self.epoch = 0
        self.best: tuple[float, float] | None = None
        self.train_batches = batches(
            dataset.splits["train"],
            for_training(config.augment, config.resize),
            config.batch_size,
            shuffle_seed=config.seed,
            num_workers=config.num_workers,
        )
        self.criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, config.weight_decay), lr=config.learning_rate
        )
        num_steps = config.epochs * len(self.train_batches)
        self.scheduler: LRScheduler
        if config.schedule == "one-cycle":
            self.scheduler = OneCycleLR(self.optimizer, config.learning_rate, num_steps)
        else:
            self.scheduler = CosineAnnealingLR(self.optimizer, num_steps)
        self.averaged: AveragedModel | None = None
        if config.ema_decay:
            self.averaged = AveragedModel(
                self.model,
                multi_avg_fn=_averaging(config.ema_decay),
                use_buffers=True,
            )

    @property
    def kept(self) -> Classifier:
        """The network that is evaluated and saved."""
        return cast(Classifier, self.averaged.module) if self.averaged else self.model

    def fit(self) -> None:
        """All epochs; after each, the files are up to date."""
        while self.epoch < self.config.epochs:
            loss, accuracy = self.train_one_epoch()
            self.epoch += 1
            figures = self.validate()
            row = {
                "epoch": float(self.epoch),
                "train_loss": loss,
                "train_accuracy": accuracy,
                "val_loss": figures["loss"],
                "val_accuracy": figures["accuracy"],
                "learning_rate": self.scheduler.get_last_lr()[0],
            }
            self.rows.append(row)
            with uninterrupted():
                self.save_last(figures)
                standing = (figures["accuracy"], -figures["loss"])
                if self.best is None or standing > self.best:
                    self.best = standing
                    checkpoint.save(self.out / checkpoint.BEST, self._state(figures))
                _write_rows(self.out / "metrics.csv", self.rows)
            if self.progress:
                self.progress.epoch_done(row)

    def validate(self) -> dict[str, Any]:
        """The figures of the network that is kept, calibrated on these very pictures."""
        logits, targets = logits_of(self.kept, self.dataset.splits["val"], self.config.resize)
        temperature = fit_temperature(logits, targets)
        figures = multiclass_metrics(softmax(logits / temperature), targets, self.dataset.labels)
        return {**figures, "temperature": temperature}

    def train_one_epoch(self) -> tuple[float, float]:
        """One pass over the training examples; its mean loss and accuracy."""
        self.model.train()
        loss_sum, num_correct, num_seen = 0.0, 0, 0
        for step, (images, targets) in enumerate(self.train_batches, start=1):
            images = images.to(self.device, memory_format=torch.channels_last)
            targets = targets.to(self.device)
            logits = self.model(images)
            loss = self.criterion(logits, targets)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {float(loss.detach())} in epoch {self.epoch + 1}, step {step}; "
                    f"lower the learning rate ({self.config.learning_rate:g})"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            if self.averaged:
                self.averaged.update_parameters(self.model)
            loss_sum += float(loss.detach()) * len(targets)
            num_correct += int((logits.argmax(dim=1) == targets).sum())
            num_seen += len(targets)
            if self.progress:
                self.progress.step(
                    self.epoch + 1,
                    step,
                    len(self.train_batches),
                    loss_sum / num_seen,
                    num_correct / num_seen,
                )
        return loss_sum / num_seen, num_correct / num_seen

    def save_last(self, figures: Mapping[str, Any] | None = None) -> None:
        """Writes last.pt."""
        checkpoint.save(self.out / checkpoint.LAST, self._state(figures or {}))

    def _state(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "model": self.kept.state_dict(),
            "labels": list(self.dataset.labels),
            "epoch": self.epoch,
            "config": {**self.config.to_json(), "data": str(self.data)},
            "data_digest": self.dataset.digest,
            "figures": dict(figures),
        }


def logits_of(
    model: Classifier, examples: tuple[Example, ...], resize: ResizeRule
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A network's raw outputs for examples, without augmentation.

    Args:
        model: Its device is used.
        examples: At least one, all readable.
        resize: How pictures are brought to the input.

    Returns:
        `(N, C)` logits and `(N,)` targets, in the order of the examples.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    outputs: list[Tensor] = []
    with torch.inference_mode():
        for images, _ in batches(examples, for_evaluation(resize), _EVALUATION_BATCH):
            outputs.append(
                model(images.to(device, memory_format=torch.channels_last)).float().cpu()
            )
    model.train(was_training)
    return torch.cat(outputs).numpy(), np.array([example.target for example in examples])


def predict(
    model: Classifier,
    examples: tuple[Example, ...],
    resize: ResizeRule,
    temperature: float = 1.0,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """As `logits_of`, but `(N, C)` probabilities: softmax of the logits over the temperature."""
    logits, targets = logits_of(model, examples, resize)
    return softmax(logits / temperature), targets


def preview(data: Path, path: Path, config: TrainConfig, num_rows: int = 8) -> None:
    """Writes a sheet: in each row a training picture as evaluation sees it, and variations.

    Args:
        data: As for `train`.
        path: The PNG to write.
        config: Its augmentation, size and seed are used.
        num_rows: How many pictures.
    """
    torch.manual_seed(config.seed)
    examples = read_dataset(data, seed=config.seed).splits["train"]
    rng = np.random.default_rng(config.seed)
    chosen = rng.choice(len(examples), size=min(num_rows, len(examples)), replace=False)
    transforms = [
        for_evaluation(config.resize),
        *[for_training(config.augment, config.resize)] * 9,
    ]
    rows = []
    for index in chosen:
        pixels = read_pixels(examples[int(index)])
        rows.append([transform(pixels).permute(1, 2, 0).numpy() for transform in transforms])
    write_sheet(rows, path)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts a Ctrl-C off until the block is done, so that files are never half-written."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt


def _start_from(model: Classifier, run: Path, labels: tuple[str, ...], arch: str) -> None:
    loaded = checkpoint.load(run)
    if loaded.labels != labels or loaded.config["arch"] != arch:
        raise ConfigError(
            f"{run} is {loaded.config['arch']} for {', '.join(loaded.labels)}; "
            f"expected {arch} for {', '.join(labels)}"
        )
    model.load_state_dict(loaded.model.state_dict())


def _averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average that forgets the first steps sooner.

    The decay of step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's
    ExponentialMovingAverage: a short run is not held back by its fresh weights.
    """

    def update(averaged: Any, current: Any, num_averaged: Any) -> None:
        step = int(num_averaged)
        rate = min(decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(rate)(averaged, current, num_averaged)  # type: ignore[no-untyped-call]

    return update


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for biases and normalisation."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _finish(run: _Run, interrupted: bool, seconds: float) -> dict[str, Any]:
    val: dict[str, Any] = {}
    best = run.out / checkpoint.BEST
    if best.exists():
        val = checkpoint.load(best).figures
        plot_curves(run.rows, run.out / "curves.png")
        plot_confusion(val["confusion"], run.dataset.labels, run.out / "confusion.png")
    report = {
        "run": str(run.out),
        "checkpoint": str(best if best.exists() else run.out / checkpoint.LAST),
        "epochs": run.epoch,
        "val": val,
        "seconds": round(seconds, 1),
        "interrupted": interrupted,
        "skipped": [
            {"path": str(skipped.path), "reason": skipped.reason} for skipped in run.dataset.skipped
        ],
        "crossing": [[str(path), str(twin)] for path, twin in run.dataset.crossing],
    }
    _write_json(run.out / "report.json", report)
    return report


def _write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
