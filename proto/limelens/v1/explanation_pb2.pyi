from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExplainMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPLAIN_METHOD_UNSPECIFIED: _ClassVar[ExplainMethod]
    EXPLAIN_METHOD_LIME: _ClassVar[ExplainMethod]
    EXPLAIN_METHOD_KERNEL_SHAP: _ClassVar[ExplainMethod]
    EXPLAIN_METHOD_OCCLUSION: _ClassVar[ExplainMethod]
    EXPLAIN_METHOD_RISE: _ClassVar[ExplainMethod]

class Compat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPAT_UNSPECIFIED: _ClassVar[Compat]
    COMPAT_LIME: _ClassVar[Compat]

class SegmentationMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEGMENTATION_METHOD_UNSPECIFIED: _ClassVar[SegmentationMethod]
    SEGMENTATION_METHOD_QUICKSHIFT: _ClassVar[SegmentationMethod]
    SEGMENTATION_METHOD_SLIC: _ClassVar[SegmentationMethod]
    SEGMENTATION_METHOD_FELZENSZWALB: _ClassVar[SegmentationMethod]
    SEGMENTATION_METHOD_GRID: _ClassVar[SegmentationMethod]

class Sampling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAMPLING_UNSPECIFIED: _ClassVar[Sampling]
    SAMPLING_PAIRED: _ClassVar[Sampling]
    SAMPLING_INDEPENDENT: _ClassVar[Sampling]

class Distance(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DISTANCE_UNSPECIFIED: _ClassVar[Distance]
    DISTANCE_COSINE: _ClassVar[Distance]
    DISTANCE_EUCLIDEAN: _ClassVar[Distance]

class FeatureSelection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEATURE_SELECTION_UNSPECIFIED: _ClassVar[FeatureSelection]
    FEATURE_SELECTION_NONE: _ClassVar[FeatureSelection]
    FEATURE_SELECTION_AUTO: _ClassVar[FeatureSelection]
    FEATURE_SELECTION_FORWARD_SELECTION: _ClassVar[FeatureSelection]
    FEATURE_SELECTION_HIGHEST_WEIGHTS: _ClassVar[FeatureSelection]
    FEATURE_SELECTION_LASSO_PATH: _ClassVar[FeatureSelection]

class Palette(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PALETTE_UNSPECIFIED: _ClassVar[Palette]
    PALETTE_GREEN_RED: _ClassVar[Palette]
    PALETTE_BLUE_ORANGE: _ClassVar[Palette]

class Picture(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PICTURE_UNSPECIFIED: _ClassVar[Picture]
    PICTURE_OVERLAY: _ClassVar[Picture]
    PICTURE_HEAT_MAP: _ClassVar[Picture]
    PICTURE_SEGMENTS: _ClassVar[Picture]
EXPLAIN_METHOD_UNSPECIFIED: ExplainMethod
EXPLAIN_METHOD_LIME: ExplainMethod
EXPLAIN_METHOD_KERNEL_SHAP: ExplainMethod
EXPLAIN_METHOD_OCCLUSION: ExplainMethod
EXPLAIN_METHOD_RISE: ExplainMethod
COMPAT_UNSPECIFIED: Compat
COMPAT_LIME: Compat
SEGMENTATION_METHOD_UNSPECIFIED: SegmentationMethod
SEGMENTATION_METHOD_QUICKSHIFT: SegmentationMethod
SEGMENTATION_METHOD_SLIC: SegmentationMethod
SEGMENTATION_METHOD_FELZENSZWALB: SegmentationMethod
SEGMENTATION_METHOD_GRID: SegmentationMethod
SAMPLING_UNSPECIFIED: Sampling
SAMPLING_PAIRED: Sampling
SAMPLING_INDEPENDENT: Sampling
DISTANCE_UNSPECIFIED: Distance
DISTANCE_COSINE: Distance
DISTANCE_EUCLIDEAN: Distance
FEATURE_SELECTION_UNSPECIFIED: FeatureSelection
FEATURE_SELECTION_NONE: FeatureSelection
FEATURE_SELECTION_AUTO: FeatureSelection
FEATURE_SELECTION_FORWARD_SELECTION: FeatureSelection
FEATURE_SELECTION_HIGHEST_WEIGHTS: FeatureSelection
FEATURE_SELECTION_LASSO_PATH: FeatureSelection
PALETTE_UNSPECIFIED: Palette
PALETTE_GREEN_RED: Palette
PALETTE_BLUE_ORANGE: Palette
PICTURE_UNSPECIFIED: Picture
PICTURE_OVERLAY: Picture
PICTURE_HEAT_MAP: Picture
PICTURE_SEGMENTS: Picture

class Segmentation(_message.Message):
    __slots__ = ("method", "num_segments", "compactness", "kernel_size", "max_dist", "ratio", "scale", "min_size", "sigma", "segments_png")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    NUM_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    COMPACTNESS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_DIST_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    MIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_PNG_FIELD_NUMBER: _ClassVar[int]
    method: SegmentationMethod
    num_segments: int
    compactness: float
    kernel_size: float
    max_dist: float
    ratio: float
    scale: float
    min_size: int
    sigma: float
    segments_png: bytes
    def __init__(self, method: _Optional[_Union[SegmentationMethod, str]] = ..., num_segments: _Optional[int] = ..., compactness: _Optional[float] = ..., kernel_size: _Optional[float] = ..., max_dist: _Optional[float] = ..., ratio: _Optional[float] = ..., scale: _Optional[float] = ..., min_size: _Optional[int] = ..., sigma: _Optional[float] = ..., segments_png: _Optional[bytes] = ...) -> None: ...

class Hide(_message.Message):
    __slots__ = ("segment_mean", "color", "blur", "shuffle", "references", "num_fills")
    SEGMENT_MEAN_FIELD_NUMBER: _ClassVar[int]
    COLOR_FIELD_NUMBER: _ClassVar[int]
    BLUR_FIELD_NUMBER: _ClassVar[int]
    SHUFFLE_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    NUM_FILLS_FIELD_NUMBER: _ClassVar[int]
    segment_mean: bool
    color: int
    blur: bool
    shuffle: bool
    references: bool
    num_fills: int
    def __init__(self, segment_mean: _Optional[bool] = ..., color: _Optional[int] = ..., blur: _Optional[bool] = ..., shuffle: _Optional[bool] = ..., references: _Optional[bool] = ..., num_fills: _Optional[int] = ...) -> None: ...

class Contrast(_message.Message):
    __slots__ = ("label", "against")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    AGAINST_FIELD_NUMBER: _ClassVar[int]
    label: str
    against: str
    def __init__(self, label: _Optional[str] = ..., against: _Optional[str] = ...) -> None: ...

class LabelExplanation(_message.Message):
    __slots__ = ("label", "probability", "intercept", "local_prediction", "score", "stability", "weights", "overlay_png", "heat_map_png", "against", "baseline")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    INTERCEPT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_PREDICTION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    STABILITY_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    OVERLAY_PNG_FIELD_NUMBER: _ClassVar[int]
    HEAT_MAP_PNG_FIELD_NUMBER: _ClassVar[int]
    AGAINST_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    intercept: float
    local_prediction: float
    score: float
    stability: float
    weights: _containers.RepeatedCompositeFieldContainer[SegmentWeight]
    overlay_png: bytes
    heat_map_png: bytes
    against: str
    baseline: float
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ..., intercept: _Optional[float] = ..., local_prediction: _Optional[float] = ..., score: _Optional[float] = ..., stability: _Optional[float] = ..., weights: _Optional[_Iterable[_Union[SegmentWeight, _Mapping]]] = ..., overlay_png: _Optional[bytes] = ..., heat_map_png: _Optional[bytes] = ..., against: _Optional[str] = ..., baseline: _Optional[float] = ...) -> None: ...

class SegmentWeight(_message.Message):
    __slots__ = ("segment", "weight", "std_error")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    STD_ERROR_FIELD_NUMBER: _ClassVar[int]
    segment: int
    weight: float
    std_error: float
    def __init__(self, segment: _Optional[int] = ..., weight: _Optional[float] = ..., std_error: _Optional[float] = ...) -> None: ...

class ExplainSettings(_message.Message):
    __slots__ = ("method", "hide", "segmentation", "num_samples", "kernel_width", "sampling", "why_json")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    HIDE_FIELD_NUMBER: _ClassVar[int]
    SEGMENTATION_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    KERNEL_WIDTH_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    WHY_JSON_FIELD_NUMBER: _ClassVar[int]
    method: ExplainMethod
    hide: Hide
    segmentation: Segmentation
    num_samples: int
    kernel_width: float
    sampling: Sampling
    why_json: str
    def __init__(self, method: _Optional[_Union[ExplainMethod, str]] = ..., hide: _Optional[_Union[Hide, _Mapping]] = ..., segmentation: _Optional[_Union[Segmentation, _Mapping]] = ..., num_samples: _Optional[int] = ..., kernel_width: _Optional[float] = ..., sampling: _Optional[_Union[Sampling, str]] = ..., why_json: _Optional[str] = ...) -> None: ...

class ExplanationTimings(_message.Message):
    __slots__ = ("decode_ms", "segment_ms", "predict_ms", "fit_ms", "total_ms")
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_MS_FIELD_NUMBER: _ClassVar[int]
    PREDICT_MS_FIELD_NUMBER: _ClassVar[int]
    FIT_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    decode_ms: float
    segment_ms: float
    predict_ms: float
    fit_ms: float
    total_ms: float
    def __init__(self, decode_ms: _Optional[float] = ..., segment_ms: _Optional[float] = ..., predict_ms: _Optional[float] = ..., fit_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...
