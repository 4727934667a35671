"""What can go wrong with the record.

LimelensError
└── RecordError               the record, or what was asked of it, cannot be used
    ├── NoRecordError         there is no record at that place
    ├── UnknownEventError     no event has that id
    ├── BusyRecordError       another process has been writing for too long
    ├── DiskFullError         there is no room
    └── DamagedRecordError    the file is damaged, or is no record
"""

from __future__ import annotations

from limelens.serve.errors import LimelensError


class RecordError(LimelensError):
    """The record, or what was asked of it, cannot be used."""


class NoRecordError(RecordError):
    """There is no record at that place."""


class UnknownEventError(RecordError):
    """No event has that id."""


class BusyRecordError(RecordError):
    """Another process has been writing for too long."""


class DiskFullError(RecordError):
    """There is no room."""


class DamagedRecordError(RecordError):
    """The file is damaged, or is no record."""
