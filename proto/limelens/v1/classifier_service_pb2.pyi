import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from limelens.v1 import embedding_pb2 as _embedding_pb2
from limelens.v1 import explanation_pb2 as _explanation_pb2
from limelens.v1 import face_pb2 as _face_pb2
from limelens.v1 import image_pb2 as _image_pb2
from limelens.v1 import model_pb2 as _model_pb2
from limelens.v1 import prediction_pb2 as _prediction_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CameraState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAMERA_STATE_UNSPECIFIED: _ClassVar[CameraState]
    CAMERA_STATE_ALERT: _ClassVar[CameraState]
    CAMERA_STATE_CLEAR: _ClassVar[CameraState]
    CAMERA_STATE_UNKNOWN: _ClassVar[CameraState]

class ChangeExplanationStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANGE_EXPLANATION_STATUS_UNSPECIFIED: _ClassVar[ChangeExplanationStatus]
    CHANGE_EXPLANATION_STATUS_EXPLAINED: _ClassVar[ChangeExplanationStatus]
    CHANGE_EXPLANATION_STATUS_SUPERSEDED: _ClassVar[ChangeExplanationStatus]
    CHANGE_EXPLANATION_STATUS_OVERLOADED: _ClassVar[ChangeExplanationStatus]
    CHANGE_EXPLANATION_STATUS_FAILED: _ClassVar[ChangeExplanationStatus]
    CHANGE_EXPLANATION_STATUS_UNFINISHED: _ClassVar[ChangeExplanationStatus]

class FrameStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_STATUS_UNSPECIFIED: _ClassVar[FrameStatus]
    FRAME_STATUS_CLASSIFIED: _ClassVar[FrameStatus]
    FRAME_STATUS_SUPERSEDED: _ClassVar[FrameStatus]
    FRAME_STATUS_STALE: _ClassVar[FrameStatus]
    FRAME_STATUS_OUT_OF_ORDER: _ClassVar[FrameStatus]
    FRAME_STATUS_INVALID: _ClassVar[FrameStatus]
    FRAME_STATUS_FAILED: _ClassVar[FrameStatus]
    FRAME_STATUS_EXPLANATION: _ClassVar[FrameStatus]
    FRAME_STATUS_DECISION_EXPIRED: _ClassVar[FrameStatus]
CAMERA_STATE_UNSPECIFIED: CameraState
CAMERA_STATE_ALERT: CameraState
CAMERA_STATE_CLEAR: CameraState
CAMERA_STATE_UNKNOWN: CameraState
CHANGE_EXPLANATION_STATUS_UNSPECIFIED: ChangeExplanationStatus
CHANGE_EXPLANATION_STATUS_EXPLAINED: ChangeExplanationStatus
CHANGE_EXPLANATION_STATUS_SUPERSEDED: ChangeExplanationStatus
CHANGE_EXPLANATION_STATUS_OVERLOADED: ChangeExplanationStatus
CHANGE_EXPLANATION_STATUS_FAILED: ChangeExplanationStatus
CHANGE_EXPLANATION_STATUS_UNFINISHED: ChangeExplanationStatus
FRAME_STATUS_UNSPECIFIED: FrameStatus
FRAME_STATUS_CLASSIFIED: FrameStatus
FRAME_STATUS_SUPERSEDED: FrameStatus
FRAME_STATUS_STALE: FrameStatus
FRAME_STATUS_OUT_OF_ORDER: FrameStatus
FRAME_STATUS_INVALID: FrameStatus
FRAME_STATUS_FAILED: FrameStatus
FRAME_STATUS_EXPLANATION: FrameStatus
FRAME_STATUS_DECISION_EXPIRED: FrameStatus

class ClassifyRequest(_message.Message):
    __slots__ = ("model", "version", "images", "top_k", "threshold", "return_embedding", "faces")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    RETURN_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    images: _containers.RepeatedCompositeFieldContainer[_image_pb2.Image]
    top_k: int
    threshold: float
    return_embedding: bool
    faces: _face_pb2.FaceOptions
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., images: _Optional[_Iterable[_Union[_image_pb2.Image, _Mapping]]] = ..., top_k: _Optional[int] = ..., threshold: _Optional[float] = ..., return_embedding: _Optional[bool] = ..., faces: _Optional[_Union[_face_pb2.FaceOptions, _Mapping]] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("predictions", "model", "timings")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[_prediction_pb2.Prediction]
    model: _model_pb2.ModelRef
    timings: _prediction_pb2.Timings
    def __init__(self, predictions: _Optional[_Iterable[_Union[_prediction_pb2.Prediction, _Mapping]]] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., timings: _Optional[_Union[_prediction_pb2.Timings, _Mapping]] = ...) -> None: ...

class ClassifyStreamRequest(_message.Message):
    __slots__ = ("config", "frame")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    config: StreamConfig
    frame: Frame
    def __init__(self, config: _Optional[_Union[StreamConfig, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ...) -> None: ...

class StreamConfig(_message.Message):
    __slots__ = ("camera_id", "model", "version", "region_of_interest", "smoothing", "max_frame_age_ms", "top_k", "threshold", "max_decision_age_ms", "explain_on_change", "faces")
    CAMERA_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REGION_OF_INTEREST_FIELD_NUMBER: _ClassVar[int]
    SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAME_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_DECISION_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_ON_CHANGE_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    camera_id: str
    model: str
    version: int
    region_of_interest: _image_pb2.RegionOfInterest
    smoothing: Smoothing
    max_frame_age_ms: int
    top_k: int
    threshold: float
    max_decision_age_ms: int
    explain_on_change: ExplainOnChange
    faces: _face_pb2.FaceOptions
    def __init__(self, camera_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., region_of_interest: _Optional[_Union[_image_pb2.RegionOfInterest, _Mapping]] = ..., smoothing: _Optional[_Union[Smoothing, _Mapping]] = ..., max_frame_age_ms: _Optional[int] = ..., top_k: _Optional[int] = ..., threshold: _Optional[float] = ..., max_decision_age_ms: _Optional[int] = ..., explain_on_change: _Optional[_Union[ExplainOnChange, _Mapping]] = ..., faces: _Optional[_Union[_face_pb2.FaceOptions, _Mapping]] = ...) -> None: ...

class Smoothing(_message.Message):
    __slots__ = ("window", "required", "required_to_alert")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_TO_ALERT_FIELD_NUMBER: _ClassVar[int]
    window: int
    required: int
    required_to_alert: int
    def __init__(self, window: _Optional[int] = ..., required: _Optional[int] = ..., required_to_alert: _Optional[int] = ...) -> None: ...

class ExplainOnChange(_message.Message):
    __slots__ = ("options", "alerts_only")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ALERTS_ONLY_FIELD_NUMBER: _ClassVar[int]
    options: ExplainRequest
    alerts_only: bool
    def __init__(self, options: _Optional[_Union[ExplainRequest, _Mapping]] = ..., alerts_only: _Optional[bool] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("frame_id", "image", "capture_time")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    frame_id: int
    image: _image_pb2.Image
    capture_time: _timestamp_pb2.Timestamp
    def __init__(self, frame_id: _Optional[int] = ..., image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ClassifyStreamResponse(_message.Message):
    __slots__ = ("frame_id", "status", "prediction", "smoothed_label", "changed", "alert", "dropped_frames", "reason", "model", "timings", "capture_time", "explanation", "smoothed_decision", "state")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_LABEL_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ALERT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FRAMES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_DECISION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    frame_id: int
    status: FrameStatus
    prediction: _prediction_pb2.Prediction
    smoothed_label: str
    changed: bool
    alert: bool
    dropped_frames: int
    reason: str
    model: _model_pb2.ModelRef
    timings: _prediction_pb2.Timings
    capture_time: _timestamp_pb2.Timestamp
    explanation: ChangeExplanation
    smoothed_decision: _prediction_pb2.Decision
    state: CameraState
    def __init__(self, frame_id: _Optional[int] = ..., status: _Optional[_Union[FrameStatus, str]] = ..., prediction: _Optional[_Union[_prediction_pb2.Prediction, _Mapping]] = ..., smoothed_label: _Optional[str] = ..., changed: _Optional[bool] = ..., alert: _Optional[bool] = ..., dropped_frames: _Optional[int] = ..., reason: _Optional[str] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., timings: _Optional[_Union[_prediction_pb2.Timings, _Mapping]] = ..., capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., explanation: _Optional[_Union[ChangeExplanation, _Mapping]] = ..., smoothed_decision: _Optional[_Union[_prediction_pb2.Decision, str]] = ..., state: _Optional[_Union[CameraState, str]] = ...) -> None: ...

class ChangeExplanation(_message.Message):
    __slots__ = ("status", "label", "explanation", "reason", "superseded_changes", "person")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_CHANGES_FIELD_NUMBER: _ClassVar[int]
    PERSON_FIELD_NUMBER: _ClassVar[int]
    status: ChangeExplanationStatus
    label: str
    explanation: ExplainResponse
    reason: str
    superseded_changes: int
    person: int
    def __init__(self, status: _Optional[_Union[ChangeExplanationStatus, str]] = ..., label: _Optional[str] = ..., explanation: _Optional[_Union[ExplainResponse, _Mapping]] = ..., reason: _Optional[str] = ..., superseded_changes: _Optional[int] = ..., person: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("model", "version", "image", "labels", "top_labels", "method", "segmentation", "num_samples", "hide", "kernel_width", "distance", "feature_selection", "num_features", "seed", "sampling", "compat", "pictures", "stability", "max_samples", "deadline_ms", "contrasts", "palette", "faces", "face")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TOP_LABELS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SEGMENTATION_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    HIDE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_WIDTH_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SELECTION_FIELD_NUMBER: _ClassVar[int]
    NUM_FEATURES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    COMPAT_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    STABILITY_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    CONTRASTS_FIELD_NUMBER: _ClassVar[int]
    PALETTE_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    FACE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    image: _image_pb2.Image
    labels: _containers.RepeatedScalarFieldContainer[str]
    top_labels: int
    method: _explanation_pb2.ExplainMethod
    segmentation: _explanation_pb2.Segmentation
    num_samples: int
    hide: _explanation_pb2.Hide
    kernel_width: float
    distance: _explanation_pb2.Distance
    feature_selection: _explanation_pb2.FeatureSelection
    num_features: int
    seed: int
    sampling: _explanation_pb2.Sampling
    compat: _explanation_pb2.Compat
    pictures: _containers.RepeatedScalarFieldContainer[_explanation_pb2.Picture]
    stability: float
    max_samples: int
    deadline_ms: int
    contrasts: _containers.RepeatedCompositeFieldContainer[_explanation_pb2.Contrast]
    palette: _explanation_pb2.Palette
    faces: _face_pb2.FaceOptions
    face: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., top_labels: _Optional[int] = ..., method: _Optional[_Union[_explanation_pb2.ExplainMethod, str]] = ..., segmentation: _Optional[_Union[_explanation_pb2.Segmentation, _Mapping]] = ..., num_samples: _Optional[int] = ..., hide: _Optional[_Union[_explanation_pb2.Hide, _Mapping]] = ..., kernel_width: _Optional[float] = ..., distance: _Optional[_Union[_explanation_pb2.Distance, str]] = ..., feature_selection: _Optional[_Union[_explanation_pb2.FeatureSelection, str]] = ..., num_features: _Optional[int] = ..., seed: _Optional[int] = ..., sampling: _Optional[_Union[_explanation_pb2.Sampling, str]] = ..., compat: _Optional[_Union[_explanation_pb2.Compat, str]] = ..., pictures: _Optional[_Iterable[_Union[_explanation_pb2.Picture, str]]] = ..., stability: _Optional[float] = ..., max_samples: _Optional[int] = ..., deadline_ms: _Optional[int] = ..., contrasts: _Optional[_Iterable[_Union[_explanation_pb2.Contrast, _Mapping]]] = ..., palette: _Optional[_Union[_explanation_pb2.Palette, str]] = ..., faces: _Optional[_Union[_face_pb2.FaceOptions, _Mapping]] = ..., face: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("explanations", "num_segments", "num_samples", "seed", "warnings", "segments_png", "model", "timings", "method", "face", "settings", "settings_from_model")
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_PNG_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    FACE_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FROM_MODEL_FIELD_NUMBER: _ClassVar[int]
    explanations: _containers.RepeatedCompositeFieldContainer[_explanation_pb2.LabelExplanation]
    num_segments: int
    num_samples: int
    seed: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    segments_png: bytes
    model: _model_pb2.ModelRef
    timings: _explanation_pb2.ExplanationTimings
    method: _explanation_pb2.ExplainMethod
    face: _prediction_pb2.Face
    settings: _explanation_pb2.ExplainSettings
    settings_from_model: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, explanations: _Optional[_Iterable[_Union[_explanation_pb2.LabelExplanation, _Mapping]]] = ..., num_segments: _Optional[int] = ..., num_samples: _Optional[int] = ..., seed: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., segments_png: _Optional[bytes] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., timings: _Optional[_Union[_explanation_pb2.ExplanationTimings, _Mapping]] = ..., method: _Optional[_Union[_explanation_pb2.ExplainMethod, str]] = ..., face: _Optional[_Union[_prediction_pb2.Face, _Mapping]] = ..., settings: _Optional[_Union[_explanation_pb2.ExplainSettings, _Mapping]] = ..., settings_from_model: _Optional[_Iterable[str]] = ...) -> None: ...

class ExplainStreamResponse(_message.Message):
    __slots__ = ("explanation", "num_samples", "max_samples", "stability", "final")
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    STABILITY_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    explanation: ExplainResponse
    num_samples: int
    max_samples: int
    stability: float
    final: bool
    def __init__(self, explanation: _Optional[_Union[ExplainResponse, _Mapping]] = ..., num_samples: _Optional[int] = ..., max_samples: _Optional[int] = ..., stability: _Optional[float] = ..., final: _Optional[bool] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("model", "version", "images", "normalize")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    images: _containers.RepeatedCompositeFieldContainer[_image_pb2.Image]
    normalize: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., images: _Optional[_Iterable[_Union[_image_pb2.Image, _Mapping]]] = ..., normalize: _Optional[bool] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("embeddings", "model", "timings", "model_digest")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[_embedding_pb2.Embedding]
    model: _model_pb2.ModelRef
    timings: _prediction_pb2.Timings
    model_digest: str
    def __init__(self, embeddings: _Optional[_Iterable[_Union[_embedding_pb2.Embedding, _Mapping]]] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., timings: _Optional[_Union[_prediction_pb2.Timings, _Mapping]] = ..., model_digest: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[_model_pb2.Model]
    def __init__(self, models: _Optional[_Iterable[_Union[_model_pb2.Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.Model
    def __init__(self, model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ...) -> None: ...
