"""What classifies a stream's frames, and holds its decision: the interface of both kinds."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from limelens.serve.decisions.decision import Decision, FacePrediction, Prediction
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.frames.turn import Arrival, Turn
from limelens.serve.scheduling.inference import InferenceResult


@dataclass(frozen=True, slots=True)
class Smoothed:
    """A stream's decision over its last frames.

    Args:
        decision: `ABSTAINED` while it is unknown, `NO_FACE` while nobody is there.
        label: None unless it is a label.
    """

    decision: Decision
    label: str | None = None


UNKNOWN: Final = Smoothed(Decision.ABSTAINED)


@dataclass(frozen=True, slots=True, eq=False)
class ChangedDecision:
    """A smoothed decision that became a label.

    Args:
        label: The label.
        image: What brought the change.
        face: Whose decision changed; None for whole frames.
    """

    label: str
    image: EncodedImage
    face: FacePrediction | None = None

    @property
    def person(self) -> int:
        """The person's number; 0 for whole frames."""
        return 0 if self.face is None else self.face.person or 0


@dataclass(frozen=True, slots=True, eq=False)
class FrameResult:
    """A frame that was classified.

    Args:
        arrival: The frame.
        prediction: Of this frame alone.
        runs: The networks' results for it; none for a frame that repeats the one before.
        changes: Decisions that became labels.
    """

    arrival: Arrival
    prediction: Prediction
    runs: Sequence[InferenceResult]
    changes: Sequence[ChangedDecision]


class FrameClassifier(ABC):
    """Classifies a stream's frames, one at a time, and holds the decision over the last of them.

    Args:
        max_decision_age_s: How long the decision holds without a classified frame; None is no
            limit.
    """

    def __init__(self, max_decision_age_s: float | None) -> None:
        self._max_decision_age_s = max_decision_age_s
        self._classified_at = 0.0

    @property
    def smoothed(self) -> Smoothed:
        """The decision now."""
        return UNKNOWN if self._is_too_old() else self._current()

    @property
    def expires_in_s(self) -> float | None:
        """When the decision becomes unknown if no frame comes; None means never."""
        if self._max_decision_age_s is None or self._current() == UNKNOWN:
            return None
        return self._classified_at + self._max_decision_age_s - time.monotonic()

    @abstractmethod
    async def classify(self, turn: Turn, model: ModelVersion) -> FrameResult:
        """Classifies the newest frame, and adds it to the decision.

        Raises:
            StaleFrameError: It was too old when its turn came.
            InvalidRequestError: It cannot be decoded.
            ModelOutputError: The output of a network is unusable.
            OverloadedError: No network can run, or no process can decode it.
        """

    @abstractmethod
    def forget(self) -> None:
        """Makes the decision unknown, and discards all frames."""

    @abstractmethod
    def use_model(self, *, has_same_labels: bool) -> None:
        """Prepares for frames that another model classifies, which may have other labels."""

    @abstractmethod
    def _current(self) -> Smoothed:
        """The decision, whatever its age."""

    def _is_too_old(self) -> bool:
        max_age_s = self._max_decision_age_s
        return max_age_s is not None and time.monotonic() - self._classified_at >= max_age_s
