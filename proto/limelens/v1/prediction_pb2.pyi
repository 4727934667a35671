from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_UNSPECIFIED: _ClassVar[Decision]
    DECISION_LABEL: _ClassVar[Decision]
    DECISION_ABSTAINED: _ClassVar[Decision]
DECISION_UNSPECIFIED: Decision
DECISION_LABEL: Decision
DECISION_ABSTAINED: Decision

class Score(_message.Message):
    __slots__ = ("label", "probability")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("decision", "label", "labels", "alert", "scores", "threshold", "embedding", "macro_label")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ALERT_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    MACRO_LABEL_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    label: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    alert: bool
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    threshold: float
    embedding: _containers.RepeatedScalarFieldContainer[float]
    macro_label: str
    def __init__(self, decision: _Optional[_Union[Decision, str]] = ..., label: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., alert: _Optional[bool] = ..., scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ..., threshold: _Optional[float] = ..., embedding: _Optional[_Iterable[float]] = ..., macro_label: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_ms", "decode_ms", "run_ms", "total_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    RUN_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    decode_ms: float
    run_ms: float
    total_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., run_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...
