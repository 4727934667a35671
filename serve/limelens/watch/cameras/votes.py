"""The frames behind a decision: those of the window, of the whole frame and of each person."""

from __future__ import annotations

from collections import deque
from datetime import datetime

from limelens.serve.client.results import FrameAnswer
from limelens.serve.decisions.decision import Prediction, spoken_label
from limelens.watch.event import FrameVote

Votes = deque[FrameVote]


class Window:
    """The last votes.

    Args:
        size: How many count.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._whole: Votes = deque(maxlen=size)
        self._people: dict[int, Votes] = {}

    def add(self, answer: FrameAnswer, at: datetime) -> None:
        """Counts a classified frame."""
        assert answer.prediction is not None
        self._whole.append(_vote(answer.frame_id, at, answer.prediction))
        people = {face.person: face for face in answer.faces if face.person is not None}
        self._people = {
            person: self._people.get(person, deque(maxlen=self._size)) for person in people
        }
        for person, face in people.items():
            if face.seen and face.issue is None:
                self._people[person].append(_vote(answer.frame_id, at, face.prediction))

    def of(self, person: int | None) -> tuple[FrameVote, ...]:
        """The votes of the frames, or of one person, oldest first."""
        votes = self._whole if person is None else self._people.get(person, ())
        return tuple(votes)

    def forget(self) -> None:
        """Begins anew, as a server does that lost a stream."""
        self._whole.clear()
        self._people.clear()


def _vote(frame_id: int, at: datetime, prediction: Prediction) -> FrameVote:
    return FrameVote(frame_id, at, spoken_label(prediction, ()), prediction.scores)
