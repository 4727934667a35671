"""A checkpoint or a bundle behind one interface: pixels in, probabilities and embeddings out.

It knows how to load both. It knows neither true labels nor metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle, Task, load_bundle
from limelens.serve.bundle.explain_defaults import ExplainDefaults
from limelens.serve.image import ResizeRule, read_fitted
from limelens.train.data.examples import Example
from limelens.train.evaluation.metrics import probabilities_of
from limelens.train.runs import is_bundle

BatchFunction = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From `(N, H, W, 3)` pixels of the input's size to a row for each image."""
_BATCH: Final = 32


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded classifier.

    Args:
        predict: Returns probabilities, `(N, C)`.
        embed: Returns feature vectors, `(N, D)`.
        label_thresholds: One per label; empty for multiclass.
        threshold: Multiclass: the probability below which it abstains; 0 never does.
        explain: How it is explained, as its bundle says; None leaves it to the library.
    """

    name: str
    labels: tuple[str, ...]
    task: Task
    resize: ResizeRule
    predict: BatchFunction
    embed: BatchFunction
    label_thresholds: tuple[float, ...] = ()
    macro_labels: Mapping[str, str] = field(default_factory=dict)
    data_digest: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    threshold: float = 0.0
    explain: ExplainDefaults | None = None

    def probabilities(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        """The probabilities of readable examples, `(N, C)`."""
        return np.concatenate([self.predict(images) for images in batches(examples, self.resize)])

    def embeddings(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        """The feature vectors of readable examples, `(N, D)`."""
        return np.concatenate([self.embed(images) for images in batches(examples, self.resize)])


def batches(examples: Sequence[Example], resize: ResizeRule) -> Iterator[NDArray[np.uint8]]:
    """The pixels of readable examples at a model's input size, `(N, H, W, 3)` a batch."""
    for start in range(0, len(examples), _BATCH):
        paths = [example.path for example in examples[start : start + _BATCH]]
        yield np.stack([read_fitted(path.read_bytes(), resize) for path in paths])


def from_bundle(bundle: Bundle) -> Model:
    """A loaded bundle as a `Model`."""
    metadata = bundle.metadata
    return Model(
        bundle.name,
        bundle.labels,
        bundle.task,
        metadata.resize,
        bundle.predict,
        lambda images: bundle.predict_and_embed(images)[1],
        metadata.label_thresholds,
        metadata.macro_labels,
        metadata.data_digest,
        metadata.card.get("config", {}),
        metadata.threshold if bundle.task is Task.MULTICLASS else 0.0,
        metadata.explain,
    )


def load_model(run_or_model: Path) -> Model:
    """Loads a run's folder, a .pt checkpoint, a .onnx bundle or a version's folder.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        BundleError: The bundle cannot be used.
    """
    if is_bundle(run_or_model):
        return from_bundle(load_bundle(run_or_model))
    # Imported here because bundles do not need torch.
    import torch

    from limelens.train import checkpoint

    loaded = checkpoint.load(run_or_model)

    def run(
        function: Callable[[torch.Tensor], torch.Tensor], images: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        with torch.inference_mode():
            outputs = function(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2))
        rows: NDArray[np.float32] = outputs.float().numpy()
        return rows

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
        loaded.label_thresholds,
        loaded.macro_labels,
        loaded.data_digest,
        loaded.config,
    )
