"""A checkpoint or a bundle behind one face: pixels in, probabilities and embeddings out.

It knows where either comes from, and nothing of labels that are true or of figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Task, load_bundle
from limelens.serve.image import ResizeRule, fit, read_image
from limelens.train.data.examples import Example

Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From `(N, H, W, 3)` pixels of the input's size to a row for each image."""
Rows = NDArray[np.float32]
_BATCH: Final = 32


@dataclass(frozen=True, eq=False)
class Model:
    """A classifier ready to answer.

    Args:
        name: What to call it.
        labels: In the order of the columns that `predict` returns.
        task: Whether an image has one label or any number.
        resize: How images are brought to its input.
        predict: Gives probabilities, `(N, C)`.
        embed: Gives feature vectors, `(N, D)`.
    """

    name: str
    labels: tuple[str, ...]
    task: Task
    resize: ResizeRule
    predict: Answer
    embed: Answer

    def embeddings(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        """The feature vectors of examples, `(N, D)`; all must be readable."""
        parts = []
        for start in range(0, len(examples), _BATCH):
            images = [
                fit(read_image(example.path.read_bytes()), self.resize).pixels
                for example in examples[start : start + _BATCH]
            ]
            parts.append(self.embed(np.stack(images)))
        return np.concatenate(parts)


def is_bundle(path: Path) -> bool:
    """Whether it is a bundle's file or its version's folder, else a run or a checkpoint."""
    return path.suffix == ".onnx" or (path / "model.onnx").exists()


def load_model(run_or_model: Path) -> Model:
    """Loads a run's folder, a .pt checkpoint, a .onnx bundle or a version's folder.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        BundleError: The bundle cannot be used.
    """
    if is_bundle(run_or_model):
        bundle = load_bundle(run_or_model)
        return Model(
            bundle.name,
            bundle.labels,
            bundle.task,
            bundle.metadata.resize,
            bundle.predict,
            lambda images: bundle.predict_and_embed(images)[1],
        )
    # Imported here: a bundle is used without torch.
    import torch

    from limelens.train import checkpoint
    from limelens.train.evaluation.prediction import probabilities_of

    loaded = checkpoint.load(run_or_model)

    def run(function: Callable[[torch.Tensor], torch.Tensor], images: NDArray[np.uint8]) -> Rows:
        with torch.inference_mode():
            outputs = function(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2))
        found: Rows = outputs.float().numpy()
        return found

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = run(loaded.model.__call__, images)
        return probabilities_of(logits, loaded.temperature, loaded.task).astype(np.float32)

    return Model(
        run_or_model.resolve().name if run_or_model.is_dir() else str(run_or_model),
        loaded.labels,
        loaded.task,
        loaded.resize,
        predict,
        lambda images: run(loaded.model.embed, images),
    )
