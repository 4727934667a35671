"""Trains a network on data, epoch by epoch, alone or with other processes.

It knows the order of a run: epochs, validation, when to stop. It does not know how data is found
(`data`), what a step is made of (`recipe`), which files are written (`run_folder`) or how metrics
are computed (`evaluation`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from limelens.serve.bundle import Task
from limelens.serve.errors import LimelensError
from limelens.train import run_lock
from limelens.train.architectures import Classifier, check_architecture
from limelens.train.config import ConfigError, TrainConfig
from limelens.train.data.decoded import DecodedImages
from limelens.train.data.examples import DataError, Dataset
from limelens.train.data.label_table import Images, table_settings
from limelens.train.data.sampling import EpochBatches, repeats
from limelens.train.runs import ANOTHER_FOLDER, check_alert_labels, holds_run, holds_run_error
from limelens.train.training.batch_norm import (
    has_batch_norm,
    renew_statistics,
    statistics_batches,
    statistics_images,
)
from limelens.train.training.best_epoch import epoch_score
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
from limelens.train.training.run_folder import RunFolder, state_to_resume
from limelens.train.training.setup import (
    build_model,
    read_shared_data,
    read_teacher,
    training_batches,
)
from limelens.train.training.suited import suited, summary
from limelens.train.training.validating import Validation


class TrainingError(LimelensError):
    """The run cannot go on."""


class Progress(Protocol):
    """Follows a run."""

    def data_read(self, dataset: Dataset) -> None:
        """Called once the data is read and divided."""

    def settings_chosen(self, config: TrainConfig, summary: str) -> None:
        """Called with all settings, and a line about those chosen for the data, if there are."""

    def step(
        self, epoch: int, step: int, num_steps: int, loss: float, accuracy: float | None
    ) -> None:
        """Called after each step with the epoch's loss and accuracy so far (None: multilabel)."""

    def epoch_done(self, row: Mapping[str, float]) -> None:
        """Called after each epoch with its row of metrics.csv."""


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
    `report.json`, `report.html` (the best checkpoint on the validation images), `best.pt` and
    `last.pt`. Under `torchrun` the processes share every batch, and the first one writes.

    The best epoch has the lowest validation loss, with fewer than 200 validation images the lowest
    mean loss of five epochs, with 1,000 or more the highest accuracy (`epoch_score`).

    Args:
        data: As for `read_dataset`, as `images` and `macro`.
        out: The run's folder; it is created, and refused if it already holds a run.
        config: None uses the defaults. What it leaves open is chosen for the data (`suited`).
        progress: Follows the run.
        images: The folder of the images that a table names.
        macro: The file of superclasses.
        resume: Continue the run in `out` after its last finished epoch, with the same result as
            without the interruption; without a finished epoch it starts again.

    Returns:
        `run`, `checkpoint`, `epochs` (finished ones), `val` (metrics of the best checkpoint),
        `verdict` (`better_than_guessing`, `sentence` about that if it is not, `overfitted`, and
        `advice`, what to try next; None without a finished epoch), `seconds`, `interrupted`
        (whether Ctrl-C ended it), `skipped`, `crossing` (images of val and test, each with its
        near-duplicate in train).

    Raises:
        DataError: The data cannot be used.
        ConfigError: A setting cannot be used, `out` holds a run, or the run to resume had other
            settings or other data.
        ArchitectureError: The network cannot be built.
        CheckpointError: The run to resume cannot be read.
        RunInUseError: Another process trains or calibrates the run in `out`.
        TrainingError: The loss is not finite.
    """
    start = time.monotonic()
    given = config or TrainConfig()
    check_architecture(given.arch)
    with joined() as processes, ExitStack() as held:
        # Before the state is read, which another process would change meanwhile.
        otherwise = "" if resume else ANOTHER_FOLDER
        processes.first(
            lambda: held.enter_context(run_lock.writing(out, "limelens train", otherwise))
        )
        if processes.agree(not resume and holds_run(out)):
            raise holds_run_error(out)
        # Other machines need not see the run's folder.
        state = processes.first(lambda: state_to_resume(out) if resume else None)
        dataset = read_shared_data(processes, data, given, images, macro)
        config = suited(given, dataset, state and state["config"])
        check_alert_labels(config.alert_labels, dataset.labels)
        if len(dataset.splits["train"]) < 2:
            raise DataError(f"{data} has one image for training; expected more")
        if not processes.is_first:
            progress = None
        if progress:
            progress.data_read(dataset)
            progress.settings_chosen(config, summary(given, config, dataset))
        torch.manual_seed(config.seed)
        model = build_model(config, dataset)
        settings = {**config.to_json(), "data": str(data.resolve()), **table_settings(images)}
        folder = RunFolder(out, settings, dataset)
        if state is not None:
            processes.first(lambda: folder.check_state(state))
        run = _Run(model, dataset, config, folder, progress, processes, start)
        if state is not None:
            run.restore(state)
        processes.first(lambda: folder.open(run.rows))
        interrupted = False
        try:
            run.fit()
        except KeyboardInterrupt:
            interrupted = True
        if not processes.is_first:
            return {"run": str(out), "epochs": run.epoch, "interrupted": interrupted}
        if interrupted and run.epoch == 0:
            if processes.world_size == 1:
                run.renew_statistics()
            folder.save_last(run.state({}), run.going())
        return folder.finish(
            run.rows, epochs=run.epoch, seconds=run.seconds, interrupted=interrupted
        )


class _Run:
    """The state of a training run between epochs."""

    def __init__(
        self,
        model: Classifier,
        dataset: Dataset,
        config: TrainConfig,
        folder: RunFolder,
        progress: Progress | None,
        processes: Processes,
        started: float,
    ) -> None:
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
        self.task = dataset.task
        self.config = config
        self.folder = folder
        self.progress = progress
        self.rows: list[dict[str, float]] = []
        self.epoch = 0
        self.best: tuple[float, ...] | None = None
        self.best_epoch = 0
        self.started = started
        examples, num_labels = dataset.splits["train"], len(dataset.labels)
        balanced = config.balance == "sample"
        self.order = EpochBatches(
            repeats(examples, num_labels) if balanced else np.ones(len(examples)),
            config.batch_size,
            config.seed,
            processes.rank,
            processes.world_size,
        )
        if self.order.batch_size < processes.world_size:
            raise ConfigError(
                f"a batch has {self.order.batch_size} images; expected one at least for each of "
                f"the {processes.world_size} processes; start fewer, or raise --batch-size"
            )
        self.batches = training_batches(dataset, config, self.order, processes, folder.path)
        self.validation = Validation(dataset, config, processes, folder.path)
        self.criterion = build_criterion(config, self.task, examples, num_labels).to(self.device)
        self.teacher = read_teacher(config, dataset)
        if self.teacher:
            self.teacher.to(self.device)
        self.mix = build_mix(config.mix, num_labels, self.task)
        self.optimizer = build_optimizer(self.model, config)
        self.scheduler = build_schedule(self.optimizer, config, config.epochs * len(self.order))
        self.parts: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
        }
        self.averaged: AveragedModel | None = None
        if config.ema_decay:
            self.averaged = self.parts["averaged"] = averaged_weights(self.model, config.ema_decay)

    @property
    def kept(self) -> Classifier:
        """The network that is evaluated and saved."""
        return cast(Classifier, self.averaged.module) if self.averaged else self.model

    @property
    def seconds(self) -> float:
        """How long the run took, including the time before it was resumed."""
        return time.monotonic() - self.started

    def fit(self) -> None:
        """Trains the remaining epochs; the files are up to date after each."""
        patience = self.config.patience
        while self.epoch < self.config.epochs:
            if self.processes.agree(0 < patience <= self.epoch - self.best_epoch):
                return
            loss, accuracy = self.train_one_epoch()
            self.renew_statistics()
            metrics = self.validation.metrics(self.kept)
            self.epoch += 1
            if metrics is not None:
                self.end_epoch(loss, accuracy, metrics)

    def renew_statistics(self) -> None:
        """Makes batch normalisation fit the kept weights; all processes do, with one result."""
        if has_batch_norm(self.kept):
            renew_statistics(self.kept, statistics_batches(self.statistics_images))
            # Kinds of processors round differently.
            self.processes.follow_first(self.kept.buffers())

    @cached_property
    def statistics_images(self) -> DecodedImages:
        """Training images for the statistics of batch normalisation; each process decodes some."""
        config, processes = self.config, self.processes
        images = statistics_images(
            self.dataset.splits["train"],
            config.resize,
            config.seed,
            processes.num_threads(config.num_workers),
            processes.once if processes.local_world_size > 1 else None,
        )
        images.pixels(range(processes.local_rank, len(images), processes.local_world_size))
        processes.gathered(None)
        return images

    def end_epoch(self, loss: float, accuracy: float | None, metrics: dict[str, Any]) -> None:
        """Writes the epoch's files."""
        row: dict[str, float] = {"epoch": float(self.epoch), "train_loss": loss}
        if accuracy is not None:
            row["train_accuracy"] = accuracy
        row["val_loss"] = metrics["loss"]
        for name in ("accuracy", "mean_average_precision", "macro_auc"):
            if metrics.get(name) is not None:
                row[f"val_{name}"] = metrics[name]
        row["learning_rate"] = float(self.scheduler.get_last_lr()[0])
        self.rows.append(row)
        score = self.score(self.epoch)
        is_best = self.best is None or score > self.best
        if is_best:
            self.best, self.best_epoch = score, self.epoch
        self.folder.end_epoch(self.state(metrics), self.going(), self.rows, is_best=is_best)
        if self.progress:
            self.progress.epoch_done(row)

    def score(self, num_epochs: int) -> tuple[float, ...]:
        """How good the network was after some epochs; higher is better."""
        return epoch_score(self.rows[:num_epochs], len(self.dataset.splits["val"]), self.task)

    def train_one_epoch(self) -> tuple[float, float | None]:
        """One pass over the training examples; its mean loss and accuracy (None: multilabel)."""
        self.shared.train()
        # The network's random numbers depend on the epoch alone, as the images' do.
        key = np.random.SeedSequence((self.config.seed, self.epoch, self.processes.rank))
        torch.manual_seed(int(key.generate_state(1)[0]))
        self.order.epoch = self.epoch
        loss_sum, correct, num_seen = 0.0, 0, 0
        accuracy: float | None = None
        for step, (images, targets) in enumerate(self.batches, start=1):
            images = images.contiguous(memory_format=torch.channels_last)
            if self.mix is not None:
                images, targets = self.mix(images.float(), targets)
            logits, loss = self.step(images, targets)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {float(loss)} in epoch {self.epoch + 1}, step {step}; "
                    f"lower the learning rate ({self.config.learning_rate:g})"
                )
            loss_sum += float(loss) * len(targets)
            num_seen += len(targets)
            if self.task is Task.MULTICLASS:
                correct += num_correct(logits, targets)
                accuracy = correct / num_seen
            if self.progress:
                mean_loss = loss_sum / num_seen
                self.progress.step(self.epoch + 1, step, len(self.order), mean_loss, accuracy)
        loss_mean = self.processes.mean(loss_sum / num_seen, num_seen)
        if accuracy is not None:
            accuracy = self.processes.mean(accuracy, num_seen)
        return loss_mean, accuracy

    def step(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Trains on one batch; returns its logits and loss."""
        with mixed_precision(self.config, self.device, self.model):
            logits = self.shared(images)
        loss = self.criterion(logits.float(), targets)
        if self.teacher:
            with mixed_precision(self.config, self.device, self.model):
                taught = self.teacher.logits(images)
            loss = self.teacher.mixed(loss, logits.float(), taught)
        self.optimizer.zero_grad(set_to_none=True)
        # The mean over processes becomes that over images, of which one may have more.
        share = len(images) * self.processes.world_size / self.order.batch_size
        (loss * share).backward()
        self.optimizer.step()
        self.scheduler.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)
        return logits.detach(), loss.detach()

    def state(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The network and its metrics, under a checkpoint's keys."""
        return {"model": self.kept.state_dict(), "epoch": self.epoch, "metrics": dict(metrics)}

    def going(self) -> dict[str, Any]:
        """The state that resuming needs in addition to the checkpoint."""
        return {
            **{name: part.state_dict() for name, part in self.parts.items()},
            "rows": self.rows,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues after the epoch of a saved state."""
        going = state["going"]
        for name, part in self.parts.items():
            part.load_state_dict(going[name])
        self.rows = list(going["rows"])
        self.best_epoch = going["best_epoch"]
        self.best = self.score(self.best_epoch) if self.best_epoch else None
        self.started -= going["seconds"]
        self.epoch = state["epoch"]
