"""Trains a network on data and leaves a run folder behind.

It knows the order of a run: epochs, validation, what is written when, where it may go on after a
crash. It does not know how data is found (`data`), what a step is made of (`recipe`) or how
figures are computed (`metrics`).
"""

from __future__ import annotations

import csv
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from limelens.serve.bundle import Task
from limelens.serve.errors import LimelensError
from limelens.serve.files import write_whole
from limelens.train import checkpoint
from limelens.train.architectures import Classifier, build
from limelens.train.config import ConfigError, TrainConfig
from limelens.train.data.augmentation import for_training
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import DataError, Dataset, targets_of
from limelens.train.data.label_table import Images, table_settings
from limelens.train.data.loading import Examples, drawn_batches
from limelens.train.data.sampling import EpochBatches, repeats
from limelens.train.evaluation.calibration import calibrated_figures
from limelens.train.evaluation.prediction import logits_of
from limelens.train.report.page import write_run_report
from limelens.train.report.plots import plot_confusion, plot_curves
from limelens.train.runs import check_alert_labels, held, holds_run
from limelens.train.training.distributed import Processes, joined
from limelens.train.training.recipe import (
    averaged_weights,
    build_criterion,
    build_mix,
    build_optimizer,
    build_schedule,
    mixed_precision,
    num_correct,
)

_WITHOUT_EFFECT: Final = ("num_workers",)
"""Settings that may change when a run is resumed."""

_log = logging.getLogger(__name__)


class TrainingError(LimelensError):
    """The run cannot go on."""


class Progress(Protocol):
    """Whoever wants to follow a run."""

    def data_read(self, dataset: Dataset) -> None:
        """The data was read and divided."""

    def step(
        self, epoch: int, step: int, num_steps: int, loss: float, accuracy: float | None
    ) -> None:
        """A step was made; loss and accuracy (None for multilabel) are the epoch's so far."""

    def epoch_done(self, row: Mapping[str, float]) -> None:
        """An epoch was finished; `row` is the one of metrics.csv."""


def train(
    data: Path,
    out: Path,
    config: TrainConfig | None = None,
    progress: Progress | None = None,
    *,
    images: Images = None,
    macro: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains on a folder or a table and writes a run.

    The run folder holds `config.json`, `metrics.csv`, `curves.png`, `confusion.png` (multiclass),
    `report.json`, `report.html` (the best checkpoint on the validation images), `best.pt`
    (highest validation accuracy, for multilabel lowest loss) and `last.pt`. Under `torchrun` the
    processes share every batch, and the first one writes.

    Args:
        data: As for `read_dataset`.
        out: The run's folder; made, and refused if it already holds a run.
        config: None takes the defaults.
        progress: Told of every step.
        images: As for `read_dataset`.
        macro: As for `read_dataset`.
        resume: Go on with the run in `out` after its last finished epoch, as if it had never been
            broken off; without a finished epoch it starts anew.

    Returns:
        `run`, `checkpoint`, `epochs` (finished ones), `val` (figures of the best checkpoint),
        `seconds`, `interrupted` (whether Ctrl-C ended it), `skipped`, `crossing` (images of
        val and test with the near-duplicate that each has in train).

    Raises:
        DataError: The data cannot be used.
        ConfigError: A setting cannot be used, `out` holds a run, or the run to resume had other
            settings or other data.
        ArchitectureError: The network cannot be built.
        CheckpointError: The run to resume cannot be read.
        TrainingError: The loss is not finite.
    """
    start = time.monotonic()
    config = config or TrainConfig()
    with joined() as processes:
        if config.batch_size % processes.world_size:
            raise ConfigError(
                f"batch_size is {config.batch_size}; expected a multiple of the "
                f"{processes.world_size} processes"
            )
        state = _state_to_resume(out) if resume else None
        if processes.agree(not resume and holds_run(out)):
            raise held(out)
        dataset = read_dataset(
            data,
            seed=config.seed,
            images=images,
            macro=macro,
            task=config.task,
            val_from_train=config.val_from_train,
        )
        _check_data(data, dataset, config)
        if progress and processes.is_first:
            progress.data_read(dataset)
        torch.manual_seed(config.seed)
        model = build_model(config, dataset)
        where = {"data": str(data.resolve()), **table_settings(images)}
        run = _Run(model, where, dataset, config, out, progress, processes, start)
        if state is not None:
            run.go_on(state)
        if processes.is_first:
            run.open_folder()
        interrupted = False
        try:
            run.fit()
        except KeyboardInterrupt:
            interrupted = True
        if not processes.is_first:
            return {"run": str(out), "epochs": run.epoch, "interrupted": interrupted}
        if interrupted and run.epoch == 0:
            run.save_last({})
        return _finish(run, interrupted)


class _Run:
    """The state of a training run between epochs."""

    def __init__(
        self,
        model: Classifier,
        where: Mapping[str, Any],
        dataset: Dataset,
        config: TrainConfig,
        out: Path,
        progress: Progress | None,
        processes: Processes,
        started: float,
    ) -> None:
        self.settings = {**config.to_json(), **where}
        self.processes = processes
        self.device = processes.device
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.shared: nn.Module = self.model
        if processes.world_size > 1:
            if self.device.type == "cuda":
                synced: Any = nn.SyncBatchNorm
                self.model = cast(Classifier, synced.convert_sync_batchnorm(self.model))
            self.shared = DistributedDataParallel(self.model)
        self.dataset = dataset
        self.config = config
        self.out = out
        self.progress = progress if processes.is_first else None
        self.rows: list[dict[str, float]] = []
        self.epoch = 0
        self.best: tuple[float, ...] | None = None
        self.best_epoch = 0
        self.started = started
        self.seconds_before = 0.0
        examples, num_labels = dataset.splits["train"], len(dataset.labels)
        balanced = config.balance == "sample"
        self.order = EpochBatches(
            repeats(examples, num_labels) if balanced else np.ones(len(examples)),
            config.batch_size,
            config.seed,
            processes.rank,
            processes.world_size,
        )
        self.batches = drawn_batches(
            Examples(
                examples,
                for_training(config.augment, config.resize, config.min_crop),
                num_labels,
                self.task,
            ),
            self.order,
            config.num_workers,
        )
        self.criterion = build_criterion(config, self.task, examples, num_labels).to(self.device)
        self.mix = build_mix(config.mix, num_labels, self.task)
        self.optimizer = build_optimizer(self.model, config)
        self.scheduler = build_schedule(self.optimizer, config, config.epochs * len(self.order))
        self.averaged: AveragedModel | None = None
        if config.ema_decay:
            self.averaged = averaged_weights(self.model, config.ema_decay)

    @property
    def task(self) -> Task:
        """Of the data."""
        return self.dataset.task

    @property
    def kept(self) -> Classifier:
        """The network that is evaluated and saved."""
        return cast(Classifier, self.averaged.module) if self.averaged else self.model

    @property
    def seconds(self) -> float:
        """What the run took, with what it took before it was broken off."""
        return self.seconds_before + time.monotonic() - self.started

    def open_folder(self) -> None:
        """Makes the folder, or brings what a crash left in it in line with the run."""
        self.out.mkdir(parents=True, exist_ok=True)
        _write_json(self.out / "config.json", self.settings)
        if self.rows:
            _write_rows(self.out / "metrics.csv", self.rows)
        else:
            # Of an epoch that was broken off before it was finished, and is done again.
            (self.out / checkpoint.BEST).unlink(missing_ok=True)

    def fit(self) -> None:
        """The epochs that remain; after each, the files are up to date."""
        while self.epoch < self.config.epochs:
            if self.processes.agree(self._is_out_of_patience()):
                return
            loss, accuracy = self.train_one_epoch()
            self.epoch += 1
            if self.processes.is_first:
                self._end_epoch(loss, accuracy)

    def _end_epoch(self, loss: float, accuracy: float | None) -> None:
        figures = self.validate()
        row: dict[str, float] = {"epoch": float(self.epoch), "train_loss": loss}
        if accuracy is not None:
            row["train_accuracy"] = accuracy
        row["val_loss"] = figures["loss"]
        for name in ("accuracy", "mean_average_precision", "macro_auc"):
            if figures.get(name) is not None:
                row[f"val_{name}"] = figures[name]
        row["learning_rate"] = float(self.scheduler.get_last_lr()[0])
        self.rows.append(row)
        standing = _standing(figures)
        is_best = self.best is None or standing > self.best
        if is_best:
            self.best, self.best_epoch = standing, self.epoch
        with uninterrupted():
            # The best one first: should the second not be written, the epoch is done again.
            if is_best:
                checkpoint.save(self.out / checkpoint.BEST, self._state(figures))
            self.save_last(figures)
            with _by_product():  # the checkpoint holds the rows too
                _write_rows(self.out / "metrics.csv", self.rows)
        if self.progress:
            self.progress.epoch_done(row)

    def _is_out_of_patience(self) -> bool:
        patience = self.config.patience
        return patience > 0 and self.epoch - self.best_epoch >= patience

    def validate(self) -> dict[str, Any]:
        """The figures of the network that is kept, calibrated on these very images."""
        examples, labels = self.dataset.splits["val"], self.dataset.labels
        return calibrated_figures(
            logits_of(self.kept, examples, self.config.resize),
            targets_of(examples, len(labels), self.task),
            labels,
            self.task,
            self.dataset.macro_labels,
        )

    def train_one_epoch(self) -> tuple[float, float | None]:
        """One pass over the training examples; its mean loss and accuracy."""
        self.shared.train()
        # What is random in the network itself follows from the epoch, as the images do.
        key = np.random.SeedSequence((self.config.seed, self.epoch, self.processes.rank))
        torch.manual_seed(int(key.generate_state(1)[0]))
        self.order.epoch = self.epoch
        loss_sum, correct, seen = 0.0, 0, 0
        for step, (images, targets) in enumerate(self.batches, start=1):
            images = images.to(self.device, memory_format=torch.channels_last)
            targets = targets.to(self.device)
            if self.mix is not None:
                images, targets = self.mix(images.float(), targets)
            logits, loss = self._step(images, targets)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {float(loss)} in epoch {self.epoch + 1}, step {step}; "
                    f"lower the learning rate ({self.config.learning_rate:g})"
                )
            loss_sum += float(loss) * len(targets)
            seen += len(targets)
            if self.task is Task.MULTICLASS:
                correct += num_correct(logits, targets)
            accuracy = correct / seen if self.task is Task.MULTICLASS else None
            if self.progress:
                self.progress.step(self.epoch + 1, step, len(self.order), loss_sum / seen, accuracy)
        mean = self.processes.mean(loss_sum / seen, seen)
        if self.task is Task.MULTILABEL:
            return mean, None
        return mean, self.processes.mean(correct / seen, seen)

    def _step(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with mixed_precision(self.config, self.device):
            logits = self.shared(images)
        loss = self.criterion(logits.float(), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)
        return logits.detach(), loss.detach()

    def save_last(self, figures: Mapping[str, Any]) -> None:
        """Writes last.pt, with all that is needed to go on."""
        going = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rows": self.rows,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
        }
        checkpoint.save(self.out / checkpoint.LAST, {**self._state(figures), "going": going})

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Takes up where `save_last` left off."""
        for name, value in self.settings.items():
            before = state["config"].get(name)
            if before != value and name not in _WITHOUT_EFFECT:
                raise ConfigError(
                    f"{self.out} was begun with {name} {before!r}, not {value!r}; resume it with "
                    "the command that began it"
                )
        if state["data_digest"] != self.dataset.digest:
            raise ConfigError(
                f"the data of {self.out} has changed since it was begun; bring it back, or begin "
                "a new run"
            )
        if state["macro_labels"] != dict(self.dataset.macro_labels):
            raise ConfigError(
                f"{self.out} was begun with other macro labels; resume it with those, or begin a "
                "new run"
            )
        going = state["going"]
        self.model.load_state_dict(going["model"])
        if self.averaged:
            self.averaged.load_state_dict(going["averaged"])
        self.optimizer.load_state_dict(going["optimizer"])
        self.scheduler.load_state_dict(going["scheduler"])
        self.rows = list(going["rows"])
        self.best = tuple(going["best"]) if going["best"] else None
        self.best_epoch = going["best_epoch"]
        self.seconds_before = going["seconds"]
        self.epoch = state["epoch"]

    def _state(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "model": self.kept.state_dict(),
            "labels": list(self.dataset.labels),
            "task": self.task.value,
            "macro_labels": dict(self.dataset.macro_labels),
            "epoch": self.epoch,
            "config": self.settings,
            "data_digest": self.dataset.digest,
            "figures": dict(figures),
        }


def _standing(figures: Mapping[str, Any]) -> tuple[float, ...]:
    """What is compared between epochs; higher is better."""
    if figures["task"] == Task.MULTILABEL:
        return (-figures["loss"],)
    return figures["accuracy"], -figures["loss"]


def _check_data(data: Path, dataset: Dataset, config: TrainConfig) -> None:
    check_alert_labels(config.alert_labels, dataset.labels)
    if len(dataset.splits["train"]) < 2:
        raise DataError(f"{data} has one image for training; expected more")


def _state_to_resume(out: Path) -> dict[str, Any] | None:
    last, best = out / checkpoint.LAST, out / checkpoint.BEST
    if not last.exists():
        # Written in the first epoch, it is written again; a later one is all that there is.
        if best.exists() and checkpoint.load_state(best)["epoch"] > 1:
            raise ConfigError(
                f"{out} holds {checkpoint.BEST} and no {checkpoint.LAST} to go on from; start "
                "another run from it"
            )
        return None
    state = checkpoint.load_state(last)
    if "going" not in state:
        raise ConfigError(f"{last} holds no state to go on from; begin the run anew")
    return state if state["epoch"] else None


def build_model(config: TrainConfig, dataset: Dataset) -> Classifier:
    """The network at the start of a run."""
    model = build(
        config.arch,
        len(dataset.labels),
        pretrained=config.pretrained,
        input_size=(config.resize.height, config.resize.width),
        dropout=config.dropout,
    )
    if config.start_from is not None:
        loaded = checkpoint.load(Path(config.start_from))
        if loaded.config["arch"] != config.arch:
            raise ConfigError(
                f"{config.start_from} is {loaded.config['arch']}; expected {config.arch}"
            )
        try:
            model.backbone.load_state_dict(loaded.model.backbone.state_dict())
        except RuntimeError as error:
            # Layers whose size follows the input's, as those of cnn3.
            raise ConfigError(
                f"the weights of {config.start_from} do not fit {config.arch} of "
                f"{config.resize.height}x{config.resize.width}; expected "
                f"{loaded.resize.height}x{loaded.resize.width}"
            ) from error
        if loaded.labels == dataset.labels:
            model.head.load_state_dict(loaded.model.head.state_dict())
    return model


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


def _finish(run: _Run, interrupted: bool) -> dict[str, Any]:
    val: dict[str, Any] = {}
    best = run.out / checkpoint.BEST
    if best.exists():
        val = checkpoint.load(best).figures
        with _by_product():
            plot_curves(run.rows, run.out / "curves.png")
        if "confusion" in val:
            with _by_product():
                plot_confusion(val["confusion"], run.dataset.labels, run.out / "confusion.png")
        with _by_product():
            write_run_report(run.out, examples=run.dataset.splits["val"])
    report = {
        "run": str(run.out),
        "checkpoint": str(best if best.exists() else run.out / checkpoint.LAST),
        "epochs": run.epoch,
        "val": val,
        "seconds": round(run.seconds, 1),
        "interrupted": interrupted,
        "skipped": [
            {"path": str(skipped.path), "reason": skipped.reason} for skipped in run.dataset.skipped
        ],
        "crossing": [[str(path), str(twin)] for path, twin in run.dataset.crossing],
    }
    with _by_product():
        _write_json(run.out / "report.json", report)
    return report


@contextmanager
def _by_product() -> Iterator[None]:
    """What cannot be written beside the checkpoints does not end a training."""
    try:
        yield
    except OSError as error:
        _log.warning("%s: cannot be written: %s", error.filename, error.strerror)


def _write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    with io.StringIO(newline="") as table:
        writer = csv.DictWriter(table, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
        write_whole(path, table.getvalue())


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
