"""The model that servers are compared with: MobileNetV3-small at 224 px, as small services use.

It is trained for one pass on drawn faces and exported, by the public commands: how fast a network
runs does not depend on what it learnt. Made once, under build/, which takes half a minute.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

MODELS: Final = Path("build/bench/models")
_NAME: Final = "mobilenet"


def made() -> Path:
    """The folder of models that holds it alone, and nothing else."""
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
    """The one model of a folder."""
    return next(iter(sorted(models.glob("*/*/model.onnx"))))
