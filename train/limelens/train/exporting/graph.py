"""The ONNX graph of a bundle: a network between uint8 pixels and calibrated probabilities.

It knows torch's exporter. It knows neither metadata nor whether the graph is right.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from limelens.serve.bundle import Task
from limelens.serve.errors import LimelensError
from limelens.serve.image import ResizeRule
from limelens.train.architectures import Classifier
from limelens.train.exporting.precision import TEMPERATURE, with_temperature

_PLACEHOLDER: Final = 1.2345


class ExportError(LimelensError):
    """The bundle was not written; the message says which check failed."""


class BundleNetwork(nn.Module):
    """What the graph computes: `(N, H, W, 3)` uint8 to probabilities and embedding."""

    temperature: Tensor

    def __init__(self, classifier: Classifier, temperature: float, task: Task) -> None:
        super().__init__()
        self.classifier = classifier
        # A buffer keeps its name in the graph, where `with_temperature` finds it.
        self.register_buffer(TEMPERATURE, torch.tensor(temperature))
        self.task = task
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `(N, C)` probabilities and `(N, D)` features, both float32."""
        embedding = self.classifier.embed(images.permute(0, 3, 1, 2))
        logits = self.classifier.head(embedding) / self.temperature
        if self.task is Task.MULTILABEL:
            return torch.sigmoid(logits), embedding
        return torch.softmax(logits, dim=1), embedding


def to_onnx(network: BundleNetwork, resize: ResizeRule) -> onnx.ModelProto:
    """The network as a graph without metadata."""
    temperature = float(network.temperature)
    # The exporter drops a division by 1, but variants need it to set another temperature.
    network.temperature.fill_(_PLACEHOLDER)
    try:
        model = to_graph(network, resize)
    finally:
        network.temperature.fill_(temperature)
    return with_temperature(model, temperature)


def to_graph(network: nn.Module, resize: ResizeRule) -> onnx.ModelProto:
    """Any network with a bundle's input and outputs as a graph without metadata.

    Args:
        network: From `(N, H, W, 3)` uint8 to `(N, C)` and `(N, D)` float32.
        resize: Says H and W; the graph takes any N.

    Raises:
        ExportError: The exporter gave nothing.
    """
    # Two rows: with one, the exporter takes the batch size for a constant.
    images = torch.zeros((2, resize.height, resize.width, 3), dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            external_data=False,
            input_names=["images"],
            output_names=["probabilities", "embedding"],
            dynamic_shapes={"images": {0: torch.export.Dim("N", min=1)}},
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx returned no graph")
    model = program.model_proto
    _remove_traces(model)
    return model


def _remove_traces(model: onnx.ModelProto) -> None:
    """Removes the exporter's notes at every node: stack traces with this machine's paths."""
    graph = model.graph
    parts: list[Any] = [*graph.node, *graph.input, *graph.output, *graph.value_info]
    for part in (*parts, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.metadata_props[:]
    del model.metadata_props[:]


def golden_image(resize: ResizeRule) -> NDArray[np.uint8]:
    """Smooth coloured blobs, `(H, W, 3)` uint8, always the same: an image without people."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((resize.width, resize.height), Image.Resampling.BICUBIC)
    return np.array(smooth)
