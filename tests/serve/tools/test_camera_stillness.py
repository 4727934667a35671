from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.serve.tools.camera.stillness import Stillness

Brightness = NDArray[np.uint8]
RNG = np.random.default_rng(0)


def scene(mean: int, size: tuple[int, int] = (480, 640)) -> Brightness:
    """Shades of one kind: scenes of different means are not near each other."""
    shades: Brightness = np.linspace(0, 60, size[1])[None, :] + np.full(size, mean)
    return shades.astype(np.uint8)


def with_noise(brightness: Brightness) -> Brightness:
    return brightness + RNG.integers(0, 2, brightness.shape, dtype=np.uint8)


def frozen_at(frames: list[Brightness], *, after_s: float = 10, fps: float = 5) -> list[float]:
    """The times, in seconds, at which a camera with these frames was frozen."""
    stillness = Stillness(after_s)
    times = [number / fps for number in range(len(frames))]
    return [at for at, one in zip(times, frames, strict=True) if stillness.is_frozen(one, at)]


def test_the_same_frame_again_and_again_is_frozen_after_the_limit() -> None:
    assert frozen_at([scene(50)] * 60) == pytest.approx(np.arange(10, 12, 0.2))


def test_noise_keeps_a_still_scene_from_being_frozen() -> None:
    assert frozen_at([with_noise(scene(50)) for _ in range(100)]) == []


def test_a_stuck_sensor_is_frozen_though_its_encoder_sends_whole_frames_now_and_then() -> None:
    whole, between, later = scene(50), scene(51), with_noise(scene(51))
    frames = ([whole] + [between] * 5 + [later] * 4) * 8
    assert frozen_at(frames)[0] == pytest.approx(11.2)


def test_images_that_take_turns_are_no_frozen_camera() -> None:
    assert frozen_at(([scene(50)] * 20 + [scene(90)] * 20) * 5) == []


def test_one_new_frame_does_not_end_it_but_several_do() -> None:
    frozen = [scene(50)] * 60
    once = frozen_at([*frozen, with_noise(scene(50)), scene(50)])
    assert once[-2:] == pytest.approx([12.0, 12.2])
    again = frozen_at([*frozen, *(with_noise(scene(50)) for _ in range(10))])
    assert again[-1] == pytest.approx(12.2)


@pytest.mark.parametrize("other", [scene(90), scene(50, (240, 320)), scene(50, (3, 4))])
def test_another_scene_or_size_ends_it_at_once(other: Brightness) -> None:
    assert frozen_at([scene(50)] * 60 + [other])[-1] < 12
