"""The motion gate on noisy, compressed frames."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.faces.motion import MotionGate

_SIZES = [(480, 640), (1080, 1920), (270, 480)]


def hall(height: int = 480, width: int = 640) -> NDArray[np.float64]:
    """An empty hall with coarse shapes, `(H, W, 3)`."""
    rng = np.random.default_rng(3)
    shapes = Image.fromarray(rng.integers(40, 200, (12, 16, 3), dtype=np.uint8))
    return np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), np.float64)


def camera(scene: NDArray[np.float64], seed: int, noise: float = 6.0) -> NDArray[np.uint8]:
    """What a camera sends of a scene: with noise, compressed."""
    noisy = scene + np.random.default_rng(seed).normal(0, noise, scene.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=80)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(
    ("size", "noise"), [((480, 640), 1.0), ((480, 640), 15.0), ((1080, 1920), 6.0)]
)
def test_noise_is_no_motion(size: tuple[int, int], noise: float) -> None:
    gate, scene = MotionGate(), hall(*size)
    moved = [gate.moved(camera(scene, seed, noise), seed * 0.2) for seed in range(4)]
    assert moved == [True] + [False] * 3


@pytest.mark.parametrize("size", _SIZES)
def test_the_smallest_face_that_comes_is_motion(size: tuple[int, int]) -> None:
    gate, scene = MotionGate(), hall(*size)
    gate.moved(camera(scene, 0), 0.0)
    scene[200:224, 300:324] += 40
    assert gate.moved(camera(scene, 1), 0.2)


def test_a_slow_change_is_motion_once_it_is_large_enough() -> None:
    gate, scene = MotionGate(), hall()
    moved = []
    for i in range(20):
        scene[100:200, 100:200] += 2
        moved.append(gate.moved(camera(scene, i), i * 0.2))
    assert 3 <= sum(moved) <= 8


def test_a_change_of_all_the_light_passes_once() -> None:
    gate, scene = MotionGate(), hall()
    gate.moved(camera(scene, 0), 0.0)
    assert gate.moved(camera(scene + 30, 1), 0.2)
    assert not gate.moved(camera(scene + 30, 2), 0.4)


def test_a_still_frame_is_looked_at_now_and_then() -> None:
    gate, frames = MotionGate(), [camera(hall(), seed) for seed in range(2)]
    passed = [i for i in range(100) if gate.moved(frames[i % 2], i * 0.2)]
    assert passed == [0, 25, 50, 75]


def test_another_size_or_a_forgotten_frame_passes() -> None:
    gate = MotionGate()
    assert gate.moved(camera(hall(), 0), 0.0)
    assert gate.moved(camera(hall(240, 320), 0), 0.1)
    assert not gate.moved(camera(hall(240, 320), 1), 0.2)
    gate.forget()
    assert gate.moved(camera(hall(240, 320), 1), 0.3)


def test_another_part_of_the_scene_passes_even_if_it_looks_alike() -> None:
    gate, wall = MotionGate(), camera(hall(), 0)
    assert [gate.moved(wall, 0.1 * i, view) for i, view in enumerate("llrrl")] == [
        True, False, True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (5, 3)])
def test_frames_of_a_few_pixels_are_compared_too(size: tuple[int, int]) -> None:
    gate = MotionGate()
    dark = np.zeros((*size, 3), np.uint8)
    assert gate.moved(dark, 0.0)
    assert not gate.moved(dark, 0.1)
    assert gate.moved(dark + np.uint8(255), 0.2)
