"""Measures what a training run costs beyond the network.

First the loader alone: processor time an image of decoding and of each augmentation, beside
torchvision's transforms of one image at a time. Then epochs of real runs, in turn with the same
steps over tensors that are ready; the table shows medians of rounds. The images are drawn.

    python -m benchmarks.training [--rounds 5] [--images 768] [--arch resnet18 …]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.transforms import v2

from limelens.serve.bundle import Task
from limelens.serve.image import ResizeRule
from limelens.train import TrainConfig, train
from limelens.train.architectures import build
from limelens.train.config import PRESETS
from limelens.train.data.augmentation import Augmentation
from limelens.train.data.batching import TrainingBatches
from limelens.train.data.examples import Dataset, Example
from limelens.train.data.sampling import EpochBatches
from limelens.train.training.recipe import build_criterion, build_optimizer, mixed_precision

_SIDE: Final = 112
_BATCH: Final = 32
_LEARNING_RATE: Final = 2e-3
_ARCHS: Final = ("mobilenet_v3_small", "resnet18", "efficientnet_b0")
_DEVICE: Final = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Floats = NDArray[np.float64]


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=768, help="of an epoch (%(default)s)")
    parser.add_argument("--arch", nargs="*", default=_ARCHS)
    arguments = parser.parse_args()
    torch.rand(8, device=_DEVICE).sum().item()  # starts the device and its threads
    with tempfile.TemporaryDirectory() as folder:
        data = _draw(Path(folder) / "data", arguments.images)
        table = Table("augmentation", "first epoch", "later epochs", "torchvision", "to later")
        for preset in PRESETS:
            table.add_row(preset, *_loader(data, preset, arguments.rounds))
        console = Console(width=100)
        console.print(f"Processor ms an image, {_SIDE}x{_SIDE}, on {_DEVICE}", table)
        beside = "/ ready tensors"
        table = Table("network", "precision", "images a second", f"time {beside}", f"CPU {beside}")
        for arch in arguments.arch:
            for precision in ("off", "bf16"):
                run = Path(folder) / f"{arch}-{precision}"
                config = TrainConfig(
                    arch=arch,
                    input_size=(_SIDE, _SIDE),
                    batch_size=_BATCH,
                    learning_rate=_LEARNING_RATE,
                    epochs=arguments.rounds + 1,
                    mixed_precision=precision,
                )
                turns = _Turns(config)
                train(data, run, config, turns)
                table.add_row(arch, precision, *turns.cells())
        console.print(table)


def _draw(folder: Path, count: int) -> Path:
    """Two labels of smooth noise: JPEGs of 160x120 pixels, as photographs that were shrunk."""
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 64)):
        for index in range(number):
            path = folder / split / f"label{index % 2}" / f"{index:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC)
            image.save(path, quality=86)
    return folder


def _loader(data: Path, preset: str, rounds: int) -> tuple[str, ...]:
    """Cells of the first table: processor time an image, over all threads."""
    paths = sorted((data / "train").rglob("*.jpg"))
    order = EpochBatches(np.ones(len(paths)), _BATCH, seed=0)
    batches = TrainingBatches(
        [Example(path, (0,)) for path in paths],
        1,
        Task.MULTICLASS,
        Augmentation(preset, ResizeRule(_SIDE, _SIDE)),
        order,
        _DEVICE,
    )
    count = len(order) * _BATCH

    def epoch() -> None:
        order.epoch += 1
        for images, _ in batches:
            assert len(images) == _BATCH

    one_by_one = _one_by_one(preset)

    def usual() -> None:
        for path in paths[:count]:
            with Image.open(path) as image:
                one_by_one(image.convert("RGB"))

    first = _processor_ms(epoch) / count
    later, beside = [], []
    for _ in range(rounds):
        later.append(_processor_ms(epoch) / count)
        beside.append(_processor_ms(usual) / count)
    ratios = [b / a for a, b in zip(later, beside, strict=True)]
    return (f"{first:.2f}", *(f"{statistics.median(v):.2f}" for v in (later, beside, ratios)))


def _one_by_one(preset: str) -> v2.Compose:
    """The nearest to a preset that torchvision's own transforms give, for one image."""
    size = [_SIDE, _SIDE]
    strength = {"none": 0.0, "light": 0.1, "standard": 0.25, "strong": 0.4}[preset]
    steps: list[v2.Transform] = [v2.ToImage()]
    if preset == "none":
        return v2.Compose([*steps, v2.Resize(size)])
    if preset == "strong":
        steps += [v2.RandomApply([v2.JPEG((20, 80))], 0.2), v2.RandomZoomOut(128, (1, 1.6), 0.2)]
    steps += [v2.RandomResizedCrop(size, (0.5, 1.0)), v2.RandomHorizontalFlip()]
    if preset != "light":
        steps.append(v2.RandomApply([v2.RandomAffine(15, (0.1, 0.1), shear=5)], 0.5))
    hue = 0.0 if preset == "light" else 0.05
    steps.append(v2.ColorJitter(strength, strength, strength, hue))
    if preset == "strong":
        steps += [
            v2.RandomGrayscale(0.1),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], 0.15),
            v2.RandomApply([v2.GaussianNoise(sigma=0.05)], 0.15),
            v2.RandomErasing(0.15, (0.02, 0.1)),
        ]
    return v2.Compose(steps)


def _processor_ms(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start)


class _Turns:
    """Follows a run, and takes as many steps over ready tensors after each of its epochs.

    The first epoch is left out: it decodes.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._steps: list[Floats] = []
        self._real: list[Floats] = []
        self._bare: list[Floats] = []

    def settings_chosen(self, *_: object) -> None:
        """Nothing to follow: all of them are given."""

    def data_read(self, dataset: Dataset) -> None:
        """Prepares the tensors, the same network and its optimizer."""
        examples = dataset.splits["train"]
        model = build(self._config.arch, len(dataset.labels), input_size=(_SIDE, _SIDE))
        self._model = model.to(_DEVICE).to(memory_format=torch.channels_last).train()
        self._criterion = build_criterion(
            self._config, dataset.task, examples, len(dataset.labels)
        ).to(_DEVICE)
        self._optimizer = build_optimizer(model, self._config)
        self._batches: list[tuple[Tensor, Tensor]] = []
        for _ in range(len(examples) // _BATCH):
            images = torch.randint(0, 256, (_BATCH, 3, _SIDE, _SIDE), dtype=torch.uint8)
            images = images.to(_DEVICE, memory_format=torch.channels_last)
            targets = torch.randint(0, len(dataset.labels), (_BATCH,)).to(_DEVICE)
            self._batches.append((images, targets))

    def step(self, *_: float | None) -> None:
        """Notes when a step ended."""
        self._steps.append(_now())

    def epoch_done(self, row: Mapping[str, float]) -> None:
        """Times the bare steps."""
        times, self._steps = self._steps, []
        if row["epoch"] == 1:
            self._run(self._batches)
            return
        self._real.append((times[-1] - times[0]) / (len(times) - 1))
        self._bare.append(self._run(self._batches) / len(self._batches))

    def cells(self) -> tuple[str, ...]:
        """Images a second, and the ratios of the run's steps to the bare ones: median and range."""
        ratios = np.array(self._real) / np.array(self._bare)
        low, middle, high = np.percentile(ratios, [0, 50, 100], axis=0)
        spread = (
            f"{m:.2f} ({a:.2f} to {b:.2f})" for a, m, b in zip(low, middle, high, strict=True)
        )
        return f"{_BATCH / np.median([wall for wall, _ in self._real]):.0f}", *spread

    def _run(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Floats:
        start = _now()
        for images, targets in batches:
            with mixed_precision(self._config, _DEVICE, self._model):
                logits = self._model(images)
            loss = self._criterion(logits.float(), targets)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
        if _DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return _now() - start


def _now() -> Floats:
    """The time, and the processor time of all threads, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


if __name__ == "__main__":
    main()
