"""Trains the network on frames that other processes compose meanwhile.

Knows the loop; does not know files.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from limelens.train.detection.composing import Scenery, compose
from limelens.train.detection.frames import Sources
from limelens.train.detection.network import FaceNetwork
from limelens.train.detection.targets import Targets, loss_of, targets_of

_log = logging.getLogger(__name__)
_AVERAGED = 0.998
_MAX_NORM = 5.0
_CLOSER = 1.5
"""Close frames are larger by this factor in each direction."""


@dataclass(frozen=True)
class Settings:
    """How the network is trained.

    Args:
        num_steps: Batches.
        batch_size: Frames in a batch.
        close_every: Every so many batches the frames are as large as what the detector sees, with
            faces that fill them; such a batch has fewer frames, so that it takes as long.
        learning_rate: The highest; it rises for a tenth of the steps and falls like a cosine.
        num_workers: Processes that compose; 0 composes in this one.
        seed: Of the network's start and of every frame.
    """

    num_steps: int
    batch_size: int
    close_every: int = 4
    learning_rate: float = 4e-3
    weight_decay: float = 1e-4
    num_workers: int = 2
    seed: int = 0


class _Frames(Dataset[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]):
    """Composed frames with their targets, by number and scenery; the same always."""

    def __init__(self, sources: Sources, seed: int) -> None:
        self._sources, self._seed = sources, seed

    def __getitem__(
        self, chosen: tuple[int, Scenery]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        number, scenery = chosen
        frame = compose(self._sources, scenery, np.random.default_rng((self._seed, number)))
        image = torch.from_numpy(frame.image.transpose(2, 0, 1).copy())
        targets = targets_of(frame)
        return image, targets.heat, targets.counts, targets.boxes, targets.has_box


def train(
    sources: Sources,
    scenery: Scenery,
    settings: Settings,
    *,
    start: FaceNetwork | None = None,
    on_progress: Callable[[int, FaceNetwork], None] | None = None,
) -> FaceNetwork:
    """A network whose weights are a moving average over the last steps.

    Args:
        sources: What frames are composed of.
        scenery: How they look.
        settings: How long and how fast.
        start: Goes on from this network; None starts from scratch.
        on_progress: Gets the step and the averaged network a hundred times.
    """
    torch.manual_seed(settings.seed)
    network = copy.deepcopy(start) if start else FaceNetwork()
    network = network.to(memory_format=torch.channels_last).train()
    averaged = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.num_steps, pct_start=0.1
    )
    started, losses = time.monotonic(), np.zeros(2)
    every = max(1, settings.num_steps // 100)
    for step, (images, targets) in enumerate(_batches(sources, scenery, settings), start=1):
        with torch.autocast("cpu", torch.bfloat16):
            found = network(images.contiguous(memory_format=torch.channels_last))
        focal, box = loss_of(found.float(), targets)
        optimizer.zero_grad()
        torch.autograd.backward(focal + box)
        nn.utils.clip_grad_norm_(network.parameters(), _MAX_NORM)
        optimizer.step()
        schedule.step()
        _average(averaged, network, min(_AVERAGED, step / (step + 20)))
        losses += (focal.item(), box.item())
        if step % every == 0:
            took = (time.monotonic() - started) / step
            _log.info(
                "step %d of %d: heat %.3f, boxes %.3f, %.2f s a step",
                step, settings.num_steps, *(losses / every), took,
            )  # fmt: skip
            losses[:] = 0
            if on_progress:
                on_progress(step, averaged)
    return averaged


def _batches(
    sources: Sources, scenery: Scenery, settings: Settings
) -> Iterator[tuple[Tensor, Targets]]:
    height, width = scenery.size
    close = replace(
        scenery,
        size=(round(height * _CLOSER / 32) * 32, round(width * _CLOSER / 32) * 32),
        face_px=(scenery.face_px[0], scenery.face_px[1] * _CLOSER),
    )
    fewer = max(1, round(settings.batch_size / _CLOSER**2))
    chosen, number = [], 0
    for step in range(settings.num_steps):
        is_close = step % settings.close_every == settings.close_every - 1
        count = fewer if is_close else settings.batch_size
        look = close if is_close else scenery
        chosen.append([(number + one, look) for one in range(count)])
        number += count
    loader = DataLoader(
        _Frames(sources, settings.seed),
        batch_sampler=chosen,
        num_workers=settings.num_workers,
        prefetch_factor=4 if settings.num_workers else None,
    )
    for images, *maps in loader:
        yield images, Targets(*maps)


@torch.no_grad()
def _average(averaged: FaceNetwork, network: FaceNetwork, keep: float) -> None:
    for mean, value in zip(
        averaged.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - keep)
        else:
            mean.copy_(value)
