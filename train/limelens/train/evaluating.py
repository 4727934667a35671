"""Figures of a checkpoint or of a bundle on a folder of pictures.

A bundle is run by onnxruntime, as it is served; a checkpoint by torch. Everything else is the
same for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.errors import InvalidImageError
from limelens.serve.image import fit, read_image
from limelens.train.data import (
    SPLIT_FOLDERS,
    DataError,
    Dataset,
    Example,
    Skipped,
    read_dataset,
    read_examples,
)
from limelens.train.metrics import multiclass_metrics

_BATCH: Final = 32


def evaluate(run_or_model: Path, data: Path, *, split: str | None = None) -> dict[str, Any]:
    """Classifies every picture of a split and compares with its label.

    Args:
        run_or_model: A run's folder, a .pt checkpoint, a .onnx bundle or a version's folder.
        data: Label folders, or split folders of them. Labels are matched by name. The undivided
            folder that the model was trained on is divided as it was for training.
        split: None takes test, else val, else the whole folder.

    Returns:
        The figures of `multiclass_metrics`, with `split`, `model` and `skipped` (path and reason
        of every file that could not be read).

    Raises:
        DataError: The data has no such split, an unknown label, or no readable picture.
        CheckpointError: The checkpoint cannot be used.
        BundleError: The bundle cannot be used.
    """
    if _is_bundle(run_or_model):
        bundle = load_bundle(run_or_model)
        labels: Sequence[str] = bundle.labels
        source = Source(bundle.metadata.data_digest, bundle.metadata.card.get("config", {}))
        name, examples, skipped = _readable(data, labels, split, source)
        probabilities: NDArray[np.floating] = bundle_probabilities(bundle, examples)
    else:
        # Imported here: a bundle is evaluated without torch.
        from limelens.train import checkpoint
        from limelens.train.training import predict

        loaded = checkpoint.load(run_or_model)
        labels = loaded.labels
        source = Source(loaded.data_digest, loaded.config)
        name, examples, skipped = _readable(data, labels, split, source)
        temperature = float(loaded.figures.get("temperature", 1.0))
        probabilities, _ = predict(loaded.model, examples, loaded.resize, temperature)
    targets = np.array([example.target for example in examples])
    return {
        **multiclass_metrics(probabilities, targets, labels),
        "split": name,
        "model": str(run_or_model),
        "skipped": [{"path": str(s.path), "reason": s.reason} for s in skipped],
    }


def bundle_probabilities(bundle: Bundle, examples: Sequence[Example]) -> NDArray[np.float32]:
    """What a bundle says of examples, `(N, C)`; all must be readable."""
    parts = []
    for start in range(0, len(examples), _BATCH):
        images = [
            fit(read_image(example.path.read_bytes()), bundle.metadata.resize).pixels
            for example in examples[start : start + _BATCH]
        ]
        parts.append(bundle.predict(np.stack(images)))
    return np.concatenate(parts)


def _divided_in_training(data: Path, source: Source) -> Dataset | None:
    """The data with the splits that the model was trained with; None if it is other data."""
    seed = source.config.get("seed")
    if not isinstance(seed, int):
        return None
    try:
        dataset = read_dataset(data, seed=seed)
    except DataError:
        # A folder of one label, say, is fine for an evaluation and was not trained on.
        return None
    return dataset if dataset.digest == source.digest else None


def _is_bundle(path: Path) -> bool:
    return path.suffix == ".onnx" or (path / "model.onnx").exists()


@dataclass(frozen=True)
class Source:
    """What a model was trained on.

    Args:
        digest: Of the data.
        config: Of the training.
    """

    digest: str
    config: Mapping[str, Any]


def _readable(
    data: Path, labels: Sequence[str], split: str | None, source: Source
) -> tuple[str, tuple[Example, ...], list[Skipped]]:
    name, examples = read_examples(data, labels, split)
    if name == "all":
        own = _divided_in_training(data, source)
        if own is not None:
            name = SPLIT_FOLDERS.get(split or "test", split or "test")
            if name not in own.splits:
                raise DataError(f"{data} was divided into {sorted(own.splits)}, not {split!r}")
            return name, own.splits[name], list(own.skipped)
        if split not in (None, "all"):
            raise DataError(
                f"{data} has no splits, and is not what the model was trained on; "
                f"expected a folder {split} in it"
            )
    readable: list[Example] = []
    skipped: list[Skipped] = []
    for example in examples:
        try:
            read_image(example.path.read_bytes())
        except InvalidImageError as error:
            skipped.append(Skipped(example.path, str(error)))
        else:
            readable.append(example)
    if not readable:
        raise DataError(
            f"{data} has no picture that can be read ({name}); expected a folder for each label"
        )
    return name, tuple(readable), skipped
