"""Small real data: images that a network can distinguish after a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

COLOURS = {"green": (40, 170, 60), "red": (200, 50, 40)}


def write_images(folder: Path, colour: tuple[int, int, int], count: int, seed: int) -> None:
    """Noisy images around a colour, none like another."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        coarse = rng.normal(0, 45, (9, 9, 3)) + colour
        image = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
        image.resize((40, 48), Image.Resampling.NEAREST).save(folder / f"{index:03d}.png")


@pytest.fixture(scope="session")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with train, validation and test."""
    folder = tmp_path_factory.mktemp("divided")
    seed = 0
    for split, count in (("train", 24), ("validation", 8), ("test", 6)):
        for label, colour in COLOURS.items():
            seed += 1
            write_images(folder / split / label, colour, count, seed)
    return folder


TAGS = ("N/A", "blue", "green", "red")
"""Of `tagged`: the channels that an image has; N/A of one that has none."""


def write_tagged(path: Path, tags: set[str], seed: int) -> None:
    """A noisy image whose channels are light as far as it is tagged with them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    base = [190 if name in tags else 50 for name in ("red", "green", "blue")]
    coarse = rng.normal(0, 30, (9, 9, 3)) + base
    image = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
    image.resize((40, 48), Image.Resampling.NEAREST).save(path)


@pytest.fixture(scope="session")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Undivided data of several labels an image: train.csv with one-hot columns, and Images."""
    folder = tmp_path_factory.mktemp("tagged")
    rng = np.random.default_rng(5)
    lines = ["Id," + ",".join(TAGS)]
    for number in range(120):
        tags = {name for name in TAGS[1:] if rng.random() < 0.45} or {"N/A"}
        write_tagged(folder / "Images" / f"tt{number:04}.png", tags, number)
        lines.append(f"tt{number:04}," + ",".join(str(int(name in tags)) for name in TAGS))
    (folder / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def trained_run(divided: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smallest network on `divided`."""
    from limelens.train import TrainConfig, train

    run = tmp_path_factory.mktemp("runs") / "colours"
    config = TrainConfig(
        arch="cnn3",
        input_size=(32, 32),
        epochs=4,
        batch_size=8,
        learning_rate=1e-3,
        augment="light",
        alert_labels=("red",),
    )
    train(divided, run, config)
    return run


@pytest.fixture(scope="session")
def between(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images between the two colours, so that no network is always right."""
    folder = tmp_path_factory.mktemp("between")
    for seed, (label, colour) in enumerate({"green": (95, 130, 55), "red": (140, 95, 45)}.items()):
        write_images(folder / "val" / label, colour, 40, 100 + seed)
    return folder


@pytest.fixture
def blank_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves plots blank, because drawing them takes most of the time of a tiny run."""

    def savefig(_: Figure, file: IO[Any], *, format: str, **_options: object) -> None:
        file.write("<svg/>" if format == "svg" else b"")

    monkeypatch.setattr(Figure, "savefig", savefig)
