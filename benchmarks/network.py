"""The model for comparing servers: MobileNetV3-small at 224 px, typical of small services.

The public commands train it for one epoch on drawn faces and export it, because a network's speed
does not depend on what it learnt. It is made once, under build/, in half a minute.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

MODELS: Final = Path("build/bench/models")
_NAME: Final = "mobilenet"


def made() -> Path:
    """A model repository with this model only."""
    if not (MODELS / _NAME / "1" / "model.onnx").exists():
        data, run = MODELS.parent / "data", MODELS.parent / "run"
        for line in (
            f"synthesize {data} --num-images 20",
            f"train {data} --out {run} --arch mobilenet_v3_small --input-size 224 --epochs 1",
            f"export {run} --name {_NAME} --models {MODELS}",
        ):
            command = [sys.executable, "-m", "limelens.cli", *line.split()]
            subprocess.run(command, check=True, stdout=sys.stderr)
    return MODELS


def model_file(models: Path) -> Path:
    """The model file of a repository with one model."""
    return next(iter(sorted(models.glob("*/*/model.onnx"))))
