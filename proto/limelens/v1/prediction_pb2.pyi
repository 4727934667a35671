from limelens.v1 import image_pb2 as _image_pb2
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
    DECISION_NO_FACE: _ClassVar[Decision]

class FaceIssue(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FACE_ISSUE_UNSPECIFIED: _ClassVar[FaceIssue]
    FACE_ISSUE_TOO_SMALL: _ClassVar[FaceIssue]
    FACE_ISSUE_CUT_OFF: _ClassVar[FaceIssue]
    FACE_ISSUE_BLURRED: _ClassVar[FaceIssue]
DECISION_UNSPECIFIED: Decision
DECISION_LABEL: Decision
DECISION_ABSTAINED: Decision
DECISION_NO_FACE: Decision
FACE_ISSUE_UNSPECIFIED: FaceIssue
FACE_ISSUE_TOO_SMALL: FaceIssue
FACE_ISSUE_CUT_OFF: FaceIssue
FACE_ISSUE_BLURRED: FaceIssue

class Score(_message.Message):
    __slots__ = ("label", "probability")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("decision", "label", "labels", "alert", "scores", "threshold", "embedding", "macro_label", "faces")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ALERT_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    MACRO_LABEL_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    label: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    alert: bool
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    threshold: float
    embedding: _containers.RepeatedScalarFieldContainer[float]
    macro_label: str
    faces: _containers.RepeatedCompositeFieldContainer[Face]
    def __init__(self, decision: _Optional[_Union[Decision, str]] = ..., label: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., alert: _Optional[bool] = ..., scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ..., threshold: _Optional[float] = ..., embedding: _Optional[_Iterable[float]] = ..., macro_label: _Optional[str] = ..., faces: _Optional[_Iterable[_Union[Face, _Mapping]]] = ...) -> None: ...

class Face(_message.Message):
    __slots__ = ("box", "score", "prediction", "issue", "person", "smoothed_label", "changed", "alert", "seen")
    BOX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    ISSUE_FIELD_NUMBER: _ClassVar[int]
    PERSON_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_LABEL_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ALERT_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    box: _image_pb2.RegionOfInterest
    score: float
    prediction: Prediction
    issue: FaceIssue
    person: int
    smoothed_label: str
    changed: bool
    alert: bool
    seen: bool
    def __init__(self, box: _Optional[_Union[_image_pb2.RegionOfInterest, _Mapping]] = ..., score: _Optional[float] = ..., prediction: _Optional[_Union[Prediction, _Mapping]] = ..., issue: _Optional[_Union[FaceIssue, str]] = ..., person: _Optional[int] = ..., smoothed_label: _Optional[str] = ..., changed: _Optional[bool] = ..., alert: _Optional[bool] = ..., seen: _Optional[bool] = ...) -> None: ...

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
