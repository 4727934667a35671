"""Results as messages of the contract."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Metadata
from limelens.serve.bundle.session import unit_length
from limelens.serve.decisions.decision import FacePrediction, Prediction
from limelens.serve.explaining.rendering import RenderedExplanation
from limelens.serve.repository.model_version import ModelVersion, RejectedVersion
from limelens.serve.rpc.explain_settings import default_settings, settings_used
from limelens.serve.rpc.server_config import Limits
from limelens.serve.scheduling.inference import InferenceResult
from limelens.serve.status import without_paths
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import embedding_pb2, explanation_pb2, image_pb2, model_pb2, prediction_pb2

_CARD: Final = (
    "name", "task", "labels", "resize", "threshold", "label_thresholds", "alert_labels",
    "macro_labels", "precision", "data_digest", "limelens_version", "card", "crop",
)  # fmt: skip


def prediction_message(prediction: Prediction) -> prediction_pb2.Prediction:
    """One image's prediction."""
    return prediction_pb2.Prediction(
        decision=f"DECISION_{prediction.decision.name}",
        label=prediction.label or "",
        labels=prediction.labels,
        alert=prediction.alert,
        scores=[
            prediction_pb2.Score(label=score.label, probability=score.probability)
            for score in prediction.scores
        ],
        threshold=prediction.threshold,
        embedding=prediction.embedding,
        macro_label=prediction.macro_label or "",
        faces=[face_message(face) for face in prediction.faces],
    )


def face_message(face: FacePrediction) -> prediction_pb2.Face:
    """A face in an image or a frame, and its prediction."""
    box = face.box
    return prediction_pb2.Face(
        box=image_pb2.RegionOfInterest(
            left=box.left, top=box.top, right=box.right, bottom=box.bottom
        ),
        score=face.score,
        prediction=prediction_message(face.prediction),
        issue="FACE_ISSUE_UNSPECIFIED" if face.issue is None else f"FACE_ISSUE_{face.issue.name}",
        person=face.person or 0,
        smoothed_label=face.smoothed_label or "",
        changed=face.changed,
        alert=face.alert,
        seen=face.seen,
    )


def embed_response(
    vectors: NDArray[np.float32],
    model: ModelVersion,
    timings: prediction_pb2.Timings,
    *,
    normalize: bool,
) -> service_pb2.EmbedResponse:
    """The feature vectors of some images: `(N, D)` float32, as the model gave them."""
    if normalize:
        vectors = unit_length(vectors)
    return service_pb2.EmbedResponse(
        embeddings=[embedding_pb2.Embedding(values=vector.tolist()) for vector in vectors],
        model=model_ref(model),
        timings=timings,
        model_digest=model.bundle.digest,
    )


def timings_message(
    results: Sequence[InferenceResult], arrived_at: float, now: float
) -> prediction_pb2.Timings:
    """Where the time for the images of one request went."""
    return prediction_pb2.Timings(
        queue_ms=1000 * max(0.0, min([one.started_at for one in results], default=0) - arrived_at),
        decode_ms=1000 * sum([one.decode_s for one in results]),
        run_ms=1000 * sum([one.run_s for one in results]),
        total_ms=1000 * (now - arrived_at),
    )


def model_ref(model: ModelVersion) -> model_pb2.ModelRef:
    """Names the model that responded."""
    return model_pb2.ModelRef(
        name=model.name, version=model.version, provider=model.bundle.provider
    )


def model_message(
    model: ModelVersion,
    limits: Limits,
    *,
    with_card: bool = False,
    rejected: RejectedVersion | None = None,
) -> model_pb2.Model:
    """A version that is served, of which a newer file may have been rejected."""
    bundle = model.bundle
    metadata = bundle.metadata
    return model_pb2.Model(
        name=model.name,
        version=model.version,
        task=f"TASK_{metadata.task.name}",
        labels=_labels(metadata),
        input_height=metadata.resize.height,
        input_width=metadata.resize.width,
        resize_mode=f"RESIZE_MODE_{metadata.resize.mode.name}",
        threshold=metadata.threshold,
        provider=bundle.provider,
        provider_reason=bundle.provider_reason,
        precision=metadata.precision,
        batch_sizes=() if bundle.runs is None else bundle.runs.sizes,
        no_graph_reason="" if bundle.runs is None else bundle.runs.no_graph_reason,
        tf32=bundle.tf32,
        state=model_pb2.MODEL_STATE_READY,
        embedding_size=bundle.embedding_size,
        max_pixels=limits.max_pixels,
        max_images=limits.max_images,
        card_json=_card(metadata) if with_card else "",
        state_reason="" if rejected is None else without_paths(rejected.reason),
        explain_settings=None if metadata.explain is None else default_settings(metadata.explain),
    )


def rejected_message(rejected: RejectedVersion) -> model_pb2.Model:
    """A version that was rejected."""
    return model_pb2.Model(
        name=rejected.name,
        version=rejected.version,
        state=model_pb2.MODEL_STATE_UNAVAILABLE,
        state_reason=without_paths(rejected.reason),
    )


def explain_response(
    explained: RenderedExplanation,
    served: ModelVersion,
    arrived_at: float,
    now: float,
    face: FacePrediction | None = None,
) -> service_pb2.ExplainResponse:
    """The explanation of one image, or of a face in it."""
    explanation = explained.explanation
    labels = served.bundle.labels
    spent = explanation.timings_ms
    return service_pb2.ExplainResponse(
        explanations=[
            explanation_pb2.LabelExplanation(
                label=labels[one.label],
                probability=one.probability,
                intercept=one.intercept,
                local_prediction=one.local_prediction,
                score=one.score,
                stability=one.stability,
                weights=[
                    explanation_pb2.SegmentWeight(
                        segment=weight.segment, weight=weight.weight, std_error=weight.std_error
                    )
                    for weight in one.weights
                ],
                overlay_png=explained.overlays[i] if explained.overlays else b"",
                heat_map_png=explained.heat_maps[i] if explained.heat_maps else b"",
                against="" if one.against is None else labels[one.against],
                baseline=one.baseline,
            )
            for i, one in enumerate(explained.label_explanations)
        ],
        num_segments=explanation.num_segments,
        num_samples=explanation.num_samples,
        seed=explanation.seed or 0,
        warnings=[warning.sentence(labels) for warning in explanation.warnings],
        segments_png=explained.segments,
        model=model_ref(served),
        timings=explanation_pb2.ExplanationTimings(
            decode_ms=1000 * explained.decode_s,
            segment_ms=spent.segment,
            predict_ms=spent.predict,
            fit_ms=spent.fit,
            total_ms=1000 * (now - arrived_at),
        ),
        method=f"EXPLAIN_METHOD_{explanation.method.upper()}",
        face=None if face is None else face_message(face),
        settings=settings_used(explained),
        settings_from_model=explained.from_model,
    )


def explain_stream_response(
    explained: RenderedExplanation,
    served: ModelVersion,
    arrived_at: float,
    now: float,
    face: FacePrediction | None = None,
) -> service_pb2.ExplainStreamResponse:
    """As `explain_response`, so far."""
    explanation = explained.explanation
    return service_pb2.ExplainStreamResponse(
        explanation=explain_response(explained, served, arrived_at, now, face),
        num_samples=explanation.num_samples,
        max_samples=explanation.max_samples,
        stability=min(one.stability for one in explanation.explanations),
        final=explanation.is_final,
    )


def _labels(metadata: Metadata) -> list[model_pb2.Label]:
    thresholds = metadata.label_thresholds or [0.0] * len(metadata.labels)
    return [
        model_pb2.Label(
            name=label,
            threshold=threshold,
            alert=label in metadata.alert_labels,
            macro_label=metadata.macro_labels.get(label, ""),
        )
        for label, threshold in zip(metadata.labels, thresholds, strict=True)
    ]


def _card(metadata: Metadata) -> str:
    """The metadata as one document, without the golden image, which is of no use to a reader."""
    document = {name: getattr(metadata, name) for name in _CARD}
    if metadata.explain is not None:
        document["explain"] = metadata.explain.to_json()
    resize = metadata.resize
    document["resize"] = {"height": resize.height, "width": resize.width, "mode": resize.mode}
    return json.dumps(document, ensure_ascii=False, default=dict)
