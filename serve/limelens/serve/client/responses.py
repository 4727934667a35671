"""A server's messages as plain values. It knows nothing of connections."""

from __future__ import annotations

import datetime
import json
from typing import Any, TypeVar

import numpy as np

from limelens.serve.client.results import (
    ChangeExplanation,
    ChangeStatus,
    Classification,
    Embeddings,
    ExplainSettings,
    ExplanationTimings,
    ExplanationUpdate,
    FrameAnswer,
    FrameStatus,
    LabelExplanation,
    LabelInfo,
    ModelInfo,
    ModelRef,
    SegmentWeight,
    ServedExplanation,
    Timings,
)
from limelens.serve.decisions.camera_state import CameraState, state_of
from limelens.serve.decisions.decision import (
    Decision,
    FaceIssue,
    FacePrediction,
    Prediction,
    Score,
)
from limelens.serve.image import Region
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import explanation_pb2, model_pb2, prediction_pb2

_Value = TypeVar("_Value")


def classification(response: service_pb2.ClassifyResponse) -> Classification:
    """The result of `Classify`."""
    return Classification(
        tuple(_prediction(one) for one in response.predictions),
        _ref(response.model),
        _timings(response.timings),
    )


def embeddings(response: service_pb2.EmbedResponse) -> Embeddings:
    """The result of `Embed`."""
    return Embeddings(
        np.array([one.values for one in response.embeddings], dtype=np.float32),
        _ref(response.model),
        response.model_digest,
        _timings(response.timings),
    )


def frame_answer(response: service_pb2.ClassifyStreamResponse) -> FrameAnswer:
    """One message of `ClassifyStream`."""
    has = response.HasField
    return _filled(
        FrameAnswer,
        response,
        # An unknown status, from a newer server, only means that there is no prediction.
        status=FrameStatus(_word(service_pb2.FrameStatus, response.status, "failed")),
        prediction=_prediction(response.prediction) if has("prediction") else None,
        smoothed_label=response.smoothed_label or None,
        smoothed_decision=_smoothed_decision(response),
        model=_ref(response.model),
        timings_ms=_timings(response.timings),
        capture_time=response.capture_time.ToDatetime(tzinfo=datetime.UTC)
        if has("capture_time")
        else None,
        explanation=_change_explanation(response.explanation) if has("explanation") else None,
        state=_state(response),
    )


def served_explanation(response: service_pb2.ExplainResponse) -> ServedExplanation:
    """The result of `Explain`."""
    spent = response.timings
    return _filled(
        ServedExplanation,
        response,
        explanations=tuple(_label_explanation(one) for one in response.explanations),
        warnings=tuple(response.warnings),
        model=_ref(response.model),
        timings_ms=ExplanationTimings(
            spent.decode_ms, spent.segment_ms, spent.predict_ms, spent.fit_ms, spent.total_ms
        ),
        # Servers that do not send it know LIME alone.
        method=_word(explanation_pb2.ExplainMethod, response.method, "lime"),
        face=face_prediction(response.face) if response.HasField("face") else None,
        settings=_explain_settings(response.settings) if response.HasField("settings") else None,
        settings_from_model=tuple(response.settings_from_model),
    )


def explanation_update(response: service_pb2.ExplainStreamResponse) -> ExplanationUpdate:
    """One message of `ExplainStream`."""
    return _filled(
        ExplanationUpdate,
        response,
        explanation=served_explanation(response.explanation),
        is_final=response.final,
    )


def model_info(model: model_pb2.Model) -> ModelInfo:
    """One model of `ListModels` or `GetModel`."""
    return _filled(
        ModelInfo,
        model,
        ready=model.state == model_pb2.MODEL_STATE_READY,
        task=_word(model_pb2.Task, model.task),
        labels=tuple(
            LabelInfo(label.name, label.threshold, label.alert, label.macro_label or None)
            for label in model.labels
        ),
        input_size=(model.input_height, model.input_width),
        resize_mode=_word(model_pb2.ResizeMode, model.resize_mode),
        batch_sizes=tuple(model.batch_sizes),
        card=json.loads(model.card_json) if model.card_json else {},
        explain_settings=_explain_settings(model.explain_settings)
        if model.HasField("explain_settings")
        else None,
    )


def _explain_settings(message: explanation_pb2.ExplainSettings) -> ExplainSettings:
    cut = message.segmentation
    parameters = {
        descriptor.name: value
        for descriptor, value in cut.ListFields()
        if descriptor.name not in ("method", "num_segments", "segments_png")
    }
    return ExplainSettings(
        method=_word(explanation_pb2.ExplainMethod, message.method) or None,
        hide=_fill(message.hide),
        num_fills=message.hide.num_fills or None,
        segmentation=_word(explanation_pb2.SegmentationMethod, cut.method) or None,
        num_segments=cut.num_segments or None,
        segmentation_options=parameters,
        num_samples=message.num_samples or None,
        kernel_width=message.kernel_width if message.HasField("kernel_width") else None,
        sampling=_word(explanation_pb2.Sampling, message.sampling) or None,
        why=json.loads(message.why_json) if message.why_json else {},
    )


def _fill(hide: explanation_pb2.Hide) -> str | tuple[int, int, int] | None:
    fill = hide.WhichOneof("fill")
    if fill == "color":
        return hide.color >> 16, hide.color >> 8 & 0xFF, hide.color & 0xFF
    return "mean" if fill == "segment_mean" else fill


def _change_explanation(message: service_pb2.ChangeExplanation) -> ChangeExplanation:
    explained = message.HasField("explanation")
    return _filled(
        ChangeExplanation,
        message,
        status=ChangeStatus(_word(service_pb2.ChangeExplanationStatus, message.status, "failed")),
        explanation=served_explanation(message.explanation) if explained else None,
        person=message.person or None,
    )


def _smoothed_decision(response: service_pb2.ClassifyStreamResponse) -> Decision:
    if not response.smoothed_decision:  # servers that do not send it know no faces
        return Decision.LABEL if response.smoothed_label else Decision.ABSTAINED
    return _decision(response.smoothed_decision)


def _state(response: service_pb2.ClassifyStreamResponse) -> CameraState:
    if not response.state:  # servers that do not send it
        return state_of(_smoothed_decision(response), alert=response.alert)
    # An unknown one, from a newer server, is no clearance.
    return CameraState(_word(service_pb2.CameraState, response.state, "unknown"))


def _prediction(message: prediction_pb2.Prediction) -> Prediction:
    return Prediction(
        decision=_decision(message.decision),
        label=message.label or None,
        labels=tuple(message.labels),
        alert=message.alert,
        scores=tuple(Score(score.label, score.probability) for score in message.scores),
        threshold=message.threshold,
        macro_label=message.macro_label or None,
        embedding=tuple(message.embedding),
        faces=tuple(face_prediction(face) for face in message.faces),
    )


def face_prediction(message: prediction_pb2.Face) -> FacePrediction:
    """A face in an image or a frame."""
    box = message.box
    issue = _word(prediction_pb2.FaceIssue, message.issue)
    return _filled(
        FacePrediction,
        message,
        box=Region(box.left, box.top, box.right, box.bottom),
        prediction=_prediction(message.prediction),
        issue=FaceIssue(issue) if issue else None,
        person=message.person or None,
        smoothed_label=message.smoothed_label or None,
    )


def _decision(value: int) -> Decision:
    """An unknown one, from a newer server, is no decision for a label."""
    return Decision(_word(prediction_pb2.Decision, value, "abstained"))


def _label_explanation(message: explanation_pb2.LabelExplanation) -> LabelExplanation:
    return _filled(
        LabelExplanation,
        message,
        weights=tuple(
            SegmentWeight(one.segment, one.weight, one.std_error) for one in message.weights
        ),
        against=message.against or None,
        baseline=message.baseline if message.HasField("baseline") else None,
    )


def _ref(model: model_pb2.ModelRef) -> ModelRef:
    return ModelRef(model.name, model.version, model.provider)


def _timings(timings: prediction_pb2.Timings) -> Timings:
    return Timings(timings.queue_ms, timings.decode_ms, timings.run_ms, timings.total_ms)


def _filled(kind: type[_Value], message: Any, **others: Any) -> _Value:
    """A value whose fields that are not among `others` are the message's of the same names."""
    names = kind.__match_args__  # type: ignore[attr-defined]  # of every dataclass
    return kind(
        **{name: getattr(message, name) for name in names if name not in others},
        **others,
    )


def _word(kind: Any, value: int, default: str = "") -> str:
    """The word for an enum's value, such as `stretch` for `RESIZE_MODE_STRETCH`.

    A value that is unspecified or unknown here gives the default.
    """
    names: list[str] = kind.keys()
    if value == 0 or value not in kind.values():
        return default
    return kind.Name(value).removeprefix(names[0].removesuffix("UNSPECIFIED")).lower()  # type: ignore[no-any-return]
