"""Whole frames: each is classified, and the decision is smoothed over the last of them."""

from __future__ import annotations

import time

from limelens.serve.decisions.decision import Decision, decide, spoken_label
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.frames.frame_classifier import (
    UNKNOWN,
    ChangedDecision,
    FrameClassifier,
    FrameResult,
    Smoothed,
)
from limelens.serve.rpc.frames.turn import Turn
from limelens.serve.rpc.model_runner import ModelRunner
from limelens.serve.rpc.requests.stream import StreamSettings
from limelens.serve.scheduling.inference import PendingImage, Priority


class WholeFrames(FrameClassifier):
    """Classifies whole frames of one stream."""

    def __init__(self, settings: StreamSettings, runner: ModelRunner) -> None:
        super().__init__(settings.max_decision_age_s)
        self._options = settings.options
        self._runner = runner
        self._smoothing = settings.new_smoothing()

    async def classify(self, turn: Turn, model: ModelVersion) -> FrameResult:
        """See `FrameClassifier`."""
        bundle = model.bundle
        image: PendingImage = turn
        if not turn.is_quick:
            # No worker may wait for another process.
            rule = bundle.metadata.resize
            image = await self._runner.slow_images.decode(turn.take(), rule)
        [result] = await self._runner.engine(bundle).classify(
            bundle, [image], priority=Priority.FRAME
        )
        alert_labels = bundle.metadata.alert_labels
        prediction = decide(
            result.probabilities,
            bundle.metadata,
            top_k=self._options.top_k,
            threshold=self._options.threshold,
        )
        if self._is_too_old():
            self.forget()
        before = self._smoothing.label
        spoken = spoken_label(prediction, alert_labels)
        label = self._smoothing.add(spoken, is_alert=spoken in alert_labels)
        self._classified_at = time.monotonic()
        changes = []
        if label is not None and label != before:
            changes.append(ChangedDecision(label, turn.arrival.image))
        return FrameResult(turn.arrival, prediction, [result], changes)

    def forget(self) -> None:
        """See `FrameClassifier`."""
        self._smoothing.forget()

    def use_model(self, *, has_same_labels: bool) -> None:
        """See `FrameClassifier`."""
        if not has_same_labels:
            self.forget()

    def _current(self) -> Smoothed:
        label = self._smoothing.label
        return UNKNOWN if label is None else Smoothed(Decision.LABEL, label)
