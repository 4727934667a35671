"""Writes a trained network as a bundle for detection, with its golden vector and card.

Knows what the bundle must hold; does not know how the network was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch

from limelens.serve.about import package_version
from limelens.serve.bundle import (
    Golden,
    Metadata,
    Task,
    check_model,
    load_bundle,
    read_metadata,
    seal,
)
from limelens.serve.bundle.checks import read_bundle_file
from limelens.serve.files import write_whole
from limelens.serve.image import ResizeMode, ResizeRule
from limelens.train.detection.frames import Pixels
from limelens.train.detection.network import NUM_BOXES, Detector, FaceNetwork
from limelens.train.exporting.card import with_hand_written
from limelens.train.exporting.graph import ExportError, golden_image, to_graph
from limelens.train.exporting.precision import TOLERANCES

RESIZE: Final = ResizeRule(384, 512, ResizeMode.PAD)
"""What a detector sees: a frame of 640x480 pixels loses a fifth of them in each direction."""
MAX_DIFFERENCE: Final = 1e-4
"""Of a score or of an edge in fractions, between the network and the exported graph."""

_TELLING: Final = 0.2
"""A score from which a box is compared."""


def export_detector(
    network: FaceNetwork,
    path: Path,
    *,
    threshold: float,
    data_digest: str = "",
    card: Mapping[str, Any] | None = None,
    proof: Pixels | None = None,
    resize: ResizeRule = RESIZE,
) -> float:
    """Writes the file whole or not at all.

    Args:
        network: As `training.train` returns it.
        path: Its folder is made if it is missing.
        threshold: The score from which a box is a face.
        data_digest: SHA-256 of the images it was trained on.
        card: What readers should know.
        proof: `(H, W, 3)` of the input's size, an image with faces, on which the graph must agree
            with the network; None uses the golden image alone.
        resize: How images are fitted to the input; its sides are multiples of 32.

    Returns:
        The largest difference of a score or an edge from the network.

    Raises:
        ExportError: The difference is above `MAX_DIFFERENCE`.
        BundleError: The graph breaks a rule of bundles.
    """
    detector = Detector(network.to(memory_format=torch.contiguous_format))
    image = golden_image(resize)
    with torch.inference_mode():
        scores = detector(torch.from_numpy(image)[None])[0][0].numpy()
    metadata = Metadata(
        name="faces",
        task=Task.DETECTION,
        labels=("face",),
        resize=resize,
        golden=Golden(image, scores, TOLERANCES["fp32"]),
        threshold=threshold,
        data_digest=data_digest,
        limelens_version=package_version(),
        card={**(card or {}), "num_parameters": network.num_parameters},
    )
    model = to_graph(detector, resize)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    try:
        _write(draft, model, metadata)
        difference = _difference(detector, draft, [image, *([] if proof is None else [proof])])
    finally:
        draft.unlink(missing_ok=True)
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(
            f"the exported graph differs from the network by {difference:.2g}; "
            f"at most {MAX_DIFFERENCE:.0e} is accepted"
        )
    card = {**metadata.card, "max_abs_difference": difference}
    _write(path, model, replace(metadata, card=card))
    return difference


def set_threshold(path: Path, threshold: float) -> None:
    """Changes the score from which a box of a bundle is a face.

    Raises:
        BundleError: The file is no bundle, or the threshold is not within 0 to 1.
    """
    data, metadata = read_bundle_file(path)
    _write(path, onnx.load_model_from_string(data), replace(metadata, threshold=threshold))


def _write(path: Path, model: onnx.ModelProto, metadata: Metadata) -> None:
    seal(model, metadata)
    check_model(model)
    write_whole(path, model.SerializeToString())


def _difference(detector: Detector, path: Path, images: list[Pixels]) -> float:
    batch = np.stack(images)
    with torch.inference_mode():
        expected = [values.numpy() for values in detector(torch.from_numpy(batch))]
    bundle = load_bundle(path, "cpu", tasks={Task.DETECTION})
    scores, edges = bundle.predict_and_embed(batch)
    # Scores near zero are as good as equal, so their boxes may come in another order.
    tells = np.repeat(expected[0] >= _TELLING, 4, axis=1)
    apart = np.abs(expected[1] - edges)[tells]
    return float(max(np.abs(expected[0] - scores).max(), apart.max(initial=0)))


def write_card(path: Path, bundle: Path, sections: Sequence[str]) -> None:
    """Writes the card of a bundle as Markdown; a part written by hand is kept, see `BY_HAND`.

    Args:
        path: The card.
        bundle: Of `export_detector`, given a card with `steps`, `batch_size` and `seed`.
        sections: What was measured.
    """
    metadata = read_metadata(bundle)
    card = metadata.card
    first, second = card["steps"]
    text = (
        f"""# {metadata.name}

Finds faces, with and without masks: the detector that comes with limelens. Trained from scratch
by `python -m limelens.train.detection` (see docs/training.md).

| | |
|---|---|
| task | {metadata.task}: {NUM_BOXES} boxes and their scores |
| network | {card["num_parameters"]:,} parameters |
| input | {metadata.resize.height}x{metadata.resize.width}, {metadata.resize.mode.value} |
| threshold | {metadata.threshold:g} |
| data digest | `{metadata.data_digest}` |
| trained | {first:,} steps of {card["batch_size"]} frames, {second:,} with mined backgrounds |
| seed | {card["seed"]} |
| from PyTorch | scores and edges differ by at most {card["max_abs_difference"]:.1e} |
| limelens | {metadata.limelens_version} |

"""
        + "\n\n".join(sections)
        + "\n"
    )
    write_whole(path, with_hand_written(text, path))
