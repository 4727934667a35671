"""Well-known networks with random weights, as bundles, because their speed needs no training.

Only their normalisation is fitted, to random images, so that activations stay as small as a trained
network's; otherwise rounding would decide the probabilities. Made once, under build/. It needs
torch, torchvision, onnx and onnxscript, but nothing else of the extra `train`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from limelens.serve.about import package_version
from limelens.serve.bundle import Golden, Metadata, Task, read_metadata, seal
from limelens.serve.image import ResizeMode, ResizeRule

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

BUILT: Final = Path("build") / "untrained"
NETWORKS: Final = ("mobilenet_v3_small", "resnet18")
SIDE: Final = 224
_LABELS: Final = ("heads", "tails")
_FITTED_ON: Final = 16
_SPREAD: Final = 0.5
"""Of the difference of logits over images."""


def network_model(network: str) -> Path:
    """A network with random weights; made on the first call.

    Args:
        network: One of `NETWORKS`.

    Returns:
        Its `model.onnx`, alone in a model repository: see `repository_of`.
    """
    return _kept(BUILT / network / network / "1" / "model.onnx", lambda: _made(network))


def half_of(model: Path) -> Path:
    """A bundle in half precision; made on the first call.

    Args:
        model: The `model.onnx` of one in single precision.

    Returns:
        Its `model.onnx`, alone in a model repository: see `repository_of`.
    """
    name = model.parents[1].name
    return _kept(BUILT / f"{name}-fp16" / name / "1" / "model.onnx", lambda: _halved(model))


def repository_of(model: Path) -> Path:
    """The model repository that a `model.onnx` lies in."""
    return model.parents[2]


def smooth_images(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Coloured blobs with some noise, `(count, height, width, 3)`."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    found = np.empty((count, height, width, 3), np.uint8)
    for image in found:
        coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        image[:] = (smooth + rng.normal(0, 9, smooth.shape)).clip(0, 255)
    return found


def _kept(path: Path, make: Callable[[], onnx.ModelProto]) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_bytes(make().SerializeToString())
        beside.rename(path)
    return path


def _made(network: str) -> onnx.ModelProto:
    import torch
    from torch import nn

    from limelens.train.architectures import build
    from limelens.train.exporting.graph import BundleNetwork, golden_image, to_onnx
    from limelens.train.exporting.precision import TOLERANCES

    torch.manual_seed(0)
    classifier = build(network, len(_LABELS), input_size=(SIDE, SIDE))
    images = torch.from_numpy(smooth_images(_FITTED_ON, SIDE, SIDE)).permute(0, 3, 1, 2)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean over all batches
    with torch.inference_mode():
        classifier.train()(images)
        logits = classifier.eval()(images)
        # Its outputs must differ between images.
        difference = logits[:, 0] - logits[:, 1]
        scale = _SPREAD / float(difference.std())
        classifier.head.weight *= scale
        classifier.head.bias[0] -= scale * float(difference.mean())
    resize = ResizeRule(SIDE, SIDE, ResizeMode.STRETCH)
    graph = to_onnx(BundleNetwork(classifier, 1.0, Task.MULTICLASS), resize)
    image = golden_image(resize)
    metadata = Metadata(
        name=network,
        task=Task.MULTICLASS,
        labels=_LABELS,
        resize=resize,
        golden=Golden(image, _probabilities(graph, image), TOLERANCES["fp32"]),
        limelens_version=package_version(),
        card={"note": "random weights, for measuring speed"},
    )
    seal(graph, metadata)
    return graph


def _halved(model: Path) -> onnx.ModelProto:
    import onnx

    from limelens.train.exporting.precision import TOLERANCES, convert

    metadata = read_metadata(model)
    whole = onnx.load(model)
    del whole.metadata_props[:]
    rule, golden = metadata.resize, metadata.golden
    graph = convert(whole, "fp16", smooth_images(_FITTED_ON, rule.height, rule.width))
    golden = replace(
        golden,
        probabilities=_probabilities(graph, golden.image),
        tolerance=TOLERANCES["fp16"],
    )
    seal(graph, replace(metadata, precision="fp16", golden=golden))
    return graph


def _probabilities(graph: onnx.ModelProto, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: NDArray[np.float32] = session.run(["probabilities"], {"images": image[np.newaxis]})[0][0]
    return found
