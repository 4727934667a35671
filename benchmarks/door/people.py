"""The people at the door: frames of 640x480 with a face of a labelled image in the middle.

Images whose label the model is not sure of are left out: the way is measured, not the model. Of
each person there are several frames, because a real camera never sends the same twice.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from limelens.serve.bundle import Bundle
from limelens.serve.folders import walk
from limelens.serve.image import Region, read_fitted, read_image

WIDTH: Final = 640
HEIGHT: Final = 480
_SIDE: Final = 400
_LEFT: Final = (WIDTH - _SIDE) // 2
_TOP: Final = (HEIGHT - _SIDE) // 2
REGION: Final = Region(
    _LEFT / WIDTH, _TOP / HEIGHT, (_LEFT + _SIDE) / WIDTH, (_TOP + _SIDE) / HEIGHT
)
"""Where the face is."""
_QUALITY: Final = 90
_NUM_FRAMES: Final = 4
_NOISE: Final = 4.0
"""Standard deviation of a sensor's noise, of 255."""
_SURE: Final = 0.9


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody at the door.

    Args:
        label: What they are.
        frames: JPEG files, shown in turn.
    """

    label: str
    frames: tuple[bytes, ...]


def invite(data: Path, bundle: Bundle, num_each: int) -> tuple[dict[str, list[Person]], int]:
    """People of each label.

    Args:
        data: A folder for each label of the model.
        bundle: The model that will judge them.
        num_each: How many of each.

    Returns:
        The people by label, and how many were left out because the model is not sure of their
        label in each of their frames.
    """
    rng = np.random.default_rng(0)
    people: dict[str, list[Person]] = {}
    num_missed = 0
    for label in bundle.labels:
        found: list[Person] = []
        for path in walk(data / label).images:
            if len(found) == num_each:
                break
            person = Person(label, _film(path, rng))
            if _is_sure(person, bundle):
                found.append(person)
            else:
                num_missed += 1
        people[label] = found
    return people, num_missed


def _film(path: Path, rng: np.random.Generator) -> tuple[bytes, ...]:
    face = Image.fromarray(read_image(path.read_bytes())).resize((_SIDE, _SIDE))
    scene = np.full((HEIGHT, WIDTH, 3), 96.0)
    scene[_TOP : _TOP + _SIDE, _LEFT : _LEFT + _SIDE] = np.asarray(face)
    frames = []
    for _ in range(_NUM_FRAMES):
        noisy = scene + rng.normal(0, _NOISE, (HEIGHT, WIDTH, 1))
        file = io.BytesIO()
        pixels = noisy.round().clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
        frames.append(file.getvalue())
    return tuple(frames)


def _is_sure(person: Person, bundle: Bundle) -> bool:
    rule = bundle.metadata.resize
    fitted = [read_fitted(frame, rule, REGION) for frame in person.frames]
    probabilities = bundle.predict(np.stack(fitted))
    least: float = probabilities[:, bundle.labels.index(person.label)].min()
    return least >= _SURE
