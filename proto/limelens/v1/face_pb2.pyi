from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class FaceOptions(_message.Message):
    __slots__ = ("min_size_px", "threshold", "max_faces", "detect_every", "skip_still_frames", "max_unseen_ms")
    MIN_SIZE_PX_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_FACES_FIELD_NUMBER: _ClassVar[int]
    DETECT_EVERY_FIELD_NUMBER: _ClassVar[int]
    SKIP_STILL_FRAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_UNSEEN_MS_FIELD_NUMBER: _ClassVar[int]
    min_size_px: int
    threshold: float
    max_faces: int
    detect_every: int
    skip_still_frames: bool
    max_unseen_ms: int
    def __init__(self, min_size_px: _Optional[int] = ..., threshold: _Optional[float] = ..., max_faces: _Optional[int] = ..., detect_every: _Optional[int] = ..., skip_still_frames: _Optional[bool] = ..., max_unseen_ms: _Optional[int] = ...) -> None: ...
