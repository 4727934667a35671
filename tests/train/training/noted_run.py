"""`limelens`, which notes what it reads and validates in the folder NOTES, and may kill itself.

DIES is the rank and the number of the step, such as 1:9, before which a process ends by kill -9,
once. Networks have no dropout, whose random numbers differ between processes.
"""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from limelens.cli import main
from limelens.train.architectures import Classifier
from limelens.train.data import decoded, reading
from limelens.train.training import loop
from limelens.train.training.setup import build_model
from limelens.train.training.validating import Validation

rank = os.environ.get("RANK", "0")


def note(kind: str, content: bytes) -> None:
    """Adds the digest of a content to this process's list."""
    with (Path(os.environ["NOTES"]) / f"{kind}-{rank}").open("a") as file:
        file.write(hashlib.sha256(content).hexdigest() + "\n")


def note_images(kind: str, module: ModuleType) -> None:
    """Notes all images that a module decodes."""
    read_image = module.read_image

    def noted(encoded: bytes) -> NDArray[Any]:
        note(kind, encoded)
        pixels: NDArray[Any] = read_image(encoded)
        return pixels

    module.read_image = noted  # type: ignore[attr-defined]


def note_networks() -> None:
    """Notes weights and buffers of all networks that are validated."""
    metrics = Validation.metrics

    def noted(self: Validation, model: Any) -> Any:
        tensors = model.state_dict().values()
        note("kept", b"".join(tensor.numpy().tobytes() for tensor in tensors))
        return metrics(self, model)

    Validation.metrics = noted  # type: ignore[method-assign]


def build_without_dropout(*arguments: Any) -> Classifier:
    """Builds a network as a run does, without dropout."""
    model = build_model(*arguments)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


class Death:
    """Kills this process before a step."""

    num_steps = 0

    def __call__(self, *_: Any) -> None:
        self.num_steps += 1
        if f"{rank}:{self.num_steps}" == os.environ.get("DIES"):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    note_images("read", reading)
    note_images("decoded", decoded)
    note_networks()
    loop.build_model = build_without_dropout  # type: ignore[assignment, attr-defined]
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        register_optimizer_step_pre_hook(Death())
    main()
