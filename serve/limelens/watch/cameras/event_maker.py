"""Makes the events of one camera: numbers them, and adds the frame and the votes behind them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from limelens.serve.client.results import FrameAnswer
from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.decisions.decision import FacePrediction, Prediction
from limelens.serve.tools.camera import SourceAnswer, StateReport
from limelens.watch.cameras.settings import CameraSettings
from limelens.watch.cameras.votes import Window
from limelens.watch.event import DecisionRule, Event, EventType, Evidence, new_event_id


class EventMaker:
    """Numbers the events of one camera; its caller locks.

    Args:
        settings: The camera's.
    """

    def __init__(self, settings: CameraSettings) -> None:
        self._settings = settings
        self._window = Window(settings.window)
        self._sequence = 0
        self.alert_labels: tuple[str, ...] = ()
        """The model's, once they are known."""

    def count(self, answer: FrameAnswer, at: datetime) -> None:
        """Counts a classified frame as a vote."""
        self._window.add(answer, at)

    def forget(self) -> None:
        """Forgets the votes: the server that counted them is gone."""
        self._window.forget()

    def make(
        self,
        type_: EventType,
        report: StateReport,
        previous: CameraState,
        found: SourceAnswer | None = None,
        person: FacePrediction | None = None,
    ) -> Event:
        """The next event.

        Args:
            type_: What kind of news it is.
            report: The state from now on.
            previous: The state before.
            found: The answer that brought it; None if none did.
            person: Whom it is about; None for the frame as a whole.
        """
        self._sequence += 1
        label = report.label if person is None else person.smoothed_label
        return Event(
            id=new_event_id(),
            camera_id=self._settings.id,
            sequence=self._sequence,
            type=type_,
            time=datetime.now(UTC),
            state=report.state,
            previous=previous,
            reason="" if report.reason is None else report.reason.value,
            detail=report.detail,
            label=label,
            person=None if person is None else person.person,
            **({} if found is None else self._brought_by(type_, found, label, person)),
        )

    def _brought_by(
        self,
        type_: EventType,
        found: SourceAnswer,
        label: str | None,
        person: FacePrediction | None,
    ) -> dict[str, Any]:
        answer = found.answer
        prediction = answer.prediction if person is None else person.prediction
        scores = () if prediction is None else prediction.scores
        by_label = {score.label: score.probability for score in scores}
        return {
            "probability": by_label.get(label or ""),
            "people": len(answer.faces) if self._settings.faces else None,
            "frame_id": answer.frame_id,
            # Of a file it is made up.
            "capture_time": answer.capture_time if found.position_s is None else None,
            "position_s": found.position_s,
            "model": answer.model.name,
            "version": answer.model.version,
            "provider": answer.model.provider,
            "evidence": Evidence(
                frame_id=answer.frame_id,
                # Of single frames there are many, and they may wait for a slow sink.
                jpeg=b"" if type_ is EventType.FRAME else found.image,
                region=self._settings.region,
                faces=answer.faces,
                votes=self._window.of(None if person is None else person.person),
                rule=self._rule(prediction),
            ),
        }

    def _rule(self, prediction: Prediction | None) -> DecisionRule:
        window, required = self._settings.smoothing
        threshold = None if prediction is None else prediction.threshold or None
        return DecisionRule(
            threshold=threshold if self._settings.threshold is None else self._settings.threshold,
            window=window,
            required=required,
            required_to_alert=self._settings.required_to_alert or required,
            alert_labels=self.alert_labels,
        )
