"""The models that explanations are timed on: the shipped one, and two well-known networks.

Both are trained for one epoch on a handful of drawn faces and exported: speed depends on weights
only if they are zero or denormal. They are made once, under build/. It knows training and export,
but not explanations.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from limelens.cli.serving import default_models

BUILT: Final = Path("build") / "speed"
NETWORKS: Final = ("mobilenet_v3_small", "resnet18")
_SIDE: Final = 224
_FACES_PER_LABEL: Final = 8


def shipped_model() -> Path:
    """The folder of the shipped face-mask model."""
    return default_models() / "facemask" / "2"


def run_of(network: str) -> Path:
    """The folder of a network's run, which has its torch weights."""
    return BUILT / "runs" / network


def network_model(network: str) -> Path:
    """The bundle of a torchvision network at 224 pixels; made on the first call.

    Args:
        network: One of `NETWORKS`.

    Returns:
        The folder of its version.
    """
    # Imported here: the shipped model needs no torch.
    from limelens.train import TrainConfig, export, train
    from limelens.train.synthetic import write_dataset

    folder = BUILT / "models" / network / "1"
    if (folder / "model.onnx").exists():
        return folder
    with tempfile.TemporaryDirectory() as faces:
        write_dataset(Path(faces), _FACES_PER_LABEL, seed=0)
        config = TrainConfig(
            arch=network,
            input_size=(_SIDE, _SIDE),
            epochs=1,
            batch_size=4,
            augment="light",
            learning_rate=1e-4,
        )
        train(Path(faces), run_of(network), config)
        # Trained on next to nothing: only its speed counts.
        export(run_of(network), network, models=BUILT / "models", anyway=True)
    return folder
