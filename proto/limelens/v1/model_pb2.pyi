from limelens.v1 import explanation_pb2 as _explanation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_MULTICLASS: _ClassVar[Task]
    TASK_MULTILABEL: _ClassVar[Task]

class ResizeMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESIZE_MODE_UNSPECIFIED: _ClassVar[ResizeMode]
    RESIZE_MODE_STRETCH: _ClassVar[ResizeMode]
    RESIZE_MODE_CROP: _ClassVar[ResizeMode]
    RESIZE_MODE_PAD: _ClassVar[ResizeMode]

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_UNAVAILABLE: _ClassVar[ModelState]
TASK_UNSPECIFIED: Task
TASK_MULTICLASS: Task
TASK_MULTILABEL: Task
RESIZE_MODE_UNSPECIFIED: ResizeMode
RESIZE_MODE_STRETCH: ResizeMode
RESIZE_MODE_CROP: ResizeMode
RESIZE_MODE_PAD: ResizeMode
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_UNAVAILABLE: ModelState

class Model(_message.Message):
    __slots__ = ("name", "version", "task", "labels", "input_height", "input_width", "resize_mode", "threshold", "provider", "provider_reason", "precision", "state", "embedding_size", "max_pixels", "max_images", "card_json", "state_reason", "batch_sizes", "no_graph_reason", "tf32", "explain_settings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    INPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    RESIZE_MODE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_REASON_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    CARD_JSON_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZES_FIELD_NUMBER: _ClassVar[int]
    NO_GRAPH_REASON_FIELD_NUMBER: _ClassVar[int]
    TF32_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    task: Task
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    input_height: int
    input_width: int
    resize_mode: ResizeMode
    threshold: float
    provider: str
    provider_reason: str
    precision: str
    state: ModelState
    embedding_size: int
    max_pixels: int
    max_images: int
    card_json: str
    state_reason: str
    batch_sizes: _containers.RepeatedScalarFieldContainer[int]
    no_graph_reason: str
    tf32: bool
    explain_settings: _explanation_pb2.ExplainSettings
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., task: _Optional[_Union[Task, str]] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., input_height: _Optional[int] = ..., input_width: _Optional[int] = ..., resize_mode: _Optional[_Union[ResizeMode, str]] = ..., threshold: _Optional[float] = ..., provider: _Optional[str] = ..., provider_reason: _Optional[str] = ..., precision: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., embedding_size: _Optional[int] = ..., max_pixels: _Optional[int] = ..., max_images: _Optional[int] = ..., card_json: _Optional[str] = ..., state_reason: _Optional[str] = ..., batch_sizes: _Optional[_Iterable[int]] = ..., no_graph_reason: _Optional[str] = ..., tf32: _Optional[bool] = ..., explain_settings: _Optional[_Union[_explanation_pb2.ExplainSettings, _Mapping]] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("name", "threshold", "alert", "macro_label")
    NAME_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    ALERT_FIELD_NUMBER: _ClassVar[int]
    MACRO_LABEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    threshold: float
    alert: bool
    macro_label: str
    def __init__(self, name: _Optional[str] = ..., threshold: _Optional[float] = ..., alert: _Optional[bool] = ..., macro_label: _Optional[str] = ...) -> None: ...

class ModelRef(_message.Message):
    __slots__ = ("name", "version", "provider")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    provider: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., provider: _Optional[str] = ...) -> None: ...
