from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from limelens.train.detection.frames import Boxes, Frame, no_boxes
from limelens.train.detection.network import Detector, FaceNetwork
from limelens.train.detection.targets import Targets, loss_of, targets_of

FACES = np.array([[10, 20, 42, 60], [90, 30, 104, 46]], dtype=np.float32)


def frame_with(faces: Boxes, unsure: Boxes | None = None) -> Frame:
    image = np.zeros((96, 128, 3), dtype=np.uint8)
    masked = np.zeros(len(faces), dtype=bool)
    return Frame(image, faces, no_boxes() if unsure is None else unsure, masked)


def batched(targets: Targets) -> Targets:
    return Targets(targets.heat[None], targets.counts[None], targets.boxes[None],
                   targets.has_box[None])  # fmt: skip


def ideal(targets: Targets) -> Tensor:
    """The map that means exactly the targets."""
    heat = torch.logit(targets.heat.clamp(1e-6, 1 - 1e-6))
    return torch.cat([heat[:, None], targets.boxes], dim=1)


class Oracle(FaceNetwork):
    """A network that knows the answer."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        return self.answer.expand(len(images), -1, -1, -1)


def test_targets_decode_to_the_faces() -> None:
    targets = batched(targets_of(frame_with(FACES)))
    detector = Detector(Oracle(ideal(targets)))
    scores, edges = detector(torch.zeros(2, 96, 128, 3, dtype=torch.uint8))
    assert scores.shape == (2, 32)
    assert edges.shape == (2, 128)
    assert (scores[0, :2] > 0.99).all()
    assert scores[0, 2] < 0.01
    boxes = edges.reshape(2, 32, 4)[1, :2].numpy() * np.array([128, 96, 128, 96])
    assert np.allclose(boxes[boxes[:, 0].argsort()], FACES, atol=1e-3)


def test_heat_is_one_at_centres_alone() -> None:
    targets = targets_of(frame_with(FACES))
    assert [tuple(place) for place in torch.nonzero(targets.heat == 1).tolist()] == [
        (9, 24),
        (10, 6),
    ]
    assert targets.counts.min() == 1


def test_nothing_counts_where_it_is_unsure() -> None:
    targets = targets_of(frame_with(FACES[:1], FACES[1:]))
    assert targets.counts[8:11, 23:26].max() == 0
    assert targets.heat[:, 20:].max() == 0
    assert targets.counts[10, 6] == 1


def test_centre_counts_inside_an_unsure_box() -> None:
    targets = targets_of(frame_with(FACES[:1], FACES[:1]))
    assert targets.counts[10, 6] == 1


def test_loss_is_small_for_the_answer_and_large_for_another() -> None:
    targets = batched(targets_of(frame_with(FACES)))
    right = ideal(targets)
    focal, box = (float(loss) for loss in loss_of(right, targets))
    assert box == pytest.approx(0, abs=1e-6)
    nothing = right.clone()
    nothing[:, 0] = -6
    assert float(loss_of(nothing, targets)[0]) > 10 * focal
    shifted = right.clone()
    shifted[:, 1] += 1
    assert float(loss_of(shifted, targets)[1]) > 0.5


def test_frame_without_faces_wants_no_heat() -> None:
    targets = batched(targets_of(frame_with(no_boxes())))
    assert targets.heat.max() == 0
    silent = torch.full((1, 5, 24, 32), -9.0)
    focal, box = loss_of(silent, targets)
    assert float(focal) < 0.01
    assert float(box) == 0
