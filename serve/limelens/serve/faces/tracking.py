"""Faces followed from frame to frame, so that people are decided and not frames.

It knows boxes in time. It knows nothing of who somebody is: a track is a number and a place without
features, and it is forgotten when its person is gone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.faces.assignment import assign
from limelens.serve.faces.boxes import Face

# Lengths are in sides of the face, so that they mean the same near the camera and far from it. The
# numbers were chosen by simulating people who walk through a hall at 5 frames a second.
_REACH: Final = 0.5
"""How far from the expected place a face may be found at once."""
_UNKNOWN_SPEED: Final = 10.0
"""By how much that grows in a second while it is not known where a person is going: people walk at
1.4 m a second, which is 9 widths of a face."""
_KNOWN_SPEED: Final = 2.0
_MOST_UNKNOWN_S: Final = 0.3
_MOST_KNOWN_S: Final = 0.5
"""The reach grows no longer than that, or others would be taken for someone who is gone."""
_SIZE_RATIO: Final = 1.6
_ALONE: Final = 1.4
"""The cost of leaving a track and a face alone. A pair that is just within reach costs 1: if this
were less, people side by side would get each other's numbers in their second frame."""
_VELOCITY_GAIN: Final = 0.5
_LEAST_STEP_S: Final = 0.09
"""Speed is measured over no less: by the times of frames that arrive together, as after a network
held them up, people would be flying."""
_LEAST_KNOWN_S: Final = 0.2
"""Nor is the reach smaller: between such frames they went farther than the times say."""
_SLOWING_S: Final = 3.0
"""Someone out of sight is expected to slow down: their speed falls to 1/e within that time."""


class Track:
    """One person's way through the frame.

    Args:
        number: From 1, rising; no number is given twice in a stream.
        face: Where the face was found.
        now: When, in seconds.
    """

    def __init__(self, number: int, face: Face, now: float) -> None:
        self.number = number
        self._place = _place_of(face)
        self._velocity: NDArray[np.float64] | None = None
        self._measured_from = self._place, now
        self._score = face.score
        self._found_at = now

    def found(self, face: Face, now: float) -> None:
        """Moves to where the face was found in a newer frame."""
        place = _place_of(face)
        before, since = self._measured_from
        if now - since >= _LEAST_STEP_S:
            velocity = (place - before) / (now - since)
            if self._velocity is not None:
                velocity = self._velocity + _VELOCITY_GAIN * (velocity - self._velocity)
            self._velocity = velocity
            self._measured_from = place, now
        self._place, self._score, self._found_at = place, face.score, now

    def expected(self, now: float) -> Face:
        """Where the face should be: it goes on as it went, ever slower; the score is the last."""
        centre, size = np.split(self.expected_place(now), 2)
        half = np.exp(size) / 2
        (left, top), (right, bottom) = (centre - half).tolist(), (centre + half).tolist()
        return Face(left, top, right, bottom, self._score)

    def expected_place(self, now: float) -> NDArray[np.float64]:
        """As `expected`: `(4,)` x and y of the centre, and the logarithms of width and height."""
        if self._velocity is None:
            return self._place
        return self._place + self._velocity * (
            _SLOWING_S * -math.expm1((self._found_at - now) / _SLOWING_S)
        )

    def reach(self, now: float) -> float:
        """How far from the expected place the face may be, in sides of the face."""
        elapsed = now - self._found_at
        if self._velocity is None:
            return _REACH + _UNKNOWN_SPEED * min(elapsed, _MOST_UNKNOWN_S)
        return _REACH + _KNOWN_SPEED * min(max(elapsed, _LEAST_KNOWN_S), _MOST_KNOWN_S)


class Tracker:
    """Finds out which face of a frame is which of the frames before, and numbers those that came.

    A face belongs to the track that expects it nearest, in sides of the face and by its size. All
    faces of a frame are given out together, so that the sum is the least. Two people who cross are
    kept apart by where each of them was going.
    """

    def __init__(self) -> None:
        self._num_made = 0

    def match(self, tracks: Sequence[Track], faces: Sequence[Face], now: float) -> list[Track]:
        """Moves tracks to the faces of a frame, and begins tracks for those that came.

        Args:
            tracks: Of the people who may be in the frame.
            faces: Of the frame, in any order.
            now: When the frame was taken, in seconds; rising.

        Returns:
            The track of each face, in their order.
        """
        found: list[Track | None] = [None] * len(faces)
        if tracks and faces:
            costs = _costs(tracks, faces, now)
            for row, column in assign(costs):
                if costs[row, column] < _ALONE:
                    found[column] = tracks[row]
                    tracks[row].found(faces[column], now)
        return [track or self._begin(face, now) for track, face in zip(found, faces, strict=True)]

    def _begin(self, face: Face, now: float) -> Track:
        self._num_made += 1
        return Track(self._num_made, face, now)


def _place_of(face: Face) -> NDArray[np.float64]:
    """`(4,)` x and y of the centre, and the logarithms of width and height."""
    width, height = face.right - face.left, face.bottom - face.top
    centre = (face.left + face.right) / 2, (face.top + face.bottom) / 2
    return np.array([*centre, math.log(width), math.log(height)])


def _costs(tracks: Sequence[Track], faces: Sequence[Face], now: float) -> NDArray[np.float64]:
    """`(N, M)` squared distances, 1 at a track's reach; `_ALONE` where no pair can be."""
    expected = np.stack([track.expected_place(now) for track in tracks])[:, np.newaxis]
    places = np.stack([_place_of(face) for face in faces])[np.newaxis]
    sizes = expected[..., 2:].mean(axis=-1), places[..., 2:].mean(axis=-1)
    side = np.exp((sizes[0] + sizes[1]) / 2)
    distances = np.linalg.norm(expected[..., :2] - places[..., :2], axis=-1) / side
    distances /= np.array([[track.reach(now)] for track in tracks])
    growths = np.abs(sizes[0] - sizes[1]) / math.log(_SIZE_RATIO)
    costs = np.where((distances > 1) | (growths > 1), _ALONE, distances**2 + growths**2)
    return np.asarray(np.minimum(costs, _ALONE))
