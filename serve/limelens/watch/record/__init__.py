"""The record of what happened: events, their images and explanations, in SQLite.

    writer       RecordWriter: the sink, a thread with a bounded queue     for the cameras
      backlog    what waits
      images     what is kept of a frame; caption: what stands below an overlay
      batch      one transaction; storing: one event in it
      presence   who writes, and what one that was killed left standing
      retention  removes what is too old or too much
    record       Record: lists, single events, images, replays             for pages and commands
      queries    filters and pages
      replay     an event's votes, decided again
      correcting what an event should have been
    words        where a segment is, for people
    database     how the file is opened; schema: its tables

The file may be written and read by several processes at a time. The settings and the writer need
the extra `watch`; reading does not.
"""

from __future__ import annotations

from limelens.watch.record.errors import DamagedRecordError as DamagedRecordError
from limelens.watch.record.errors import NoRecordError as NoRecordError
from limelens.watch.record.errors import RecordError as RecordError
from limelens.watch.record.errors import UnknownEventError as UnknownEventError
from limelens.watch.record.record import Record as Record
from limelens.watch.record.recorded import Correction as Correction
from limelens.watch.record.recorded import EventFilter as EventFilter
from limelens.watch.record.recorded import EventPage as EventPage
from limelens.watch.record.recorded import Gap as Gap
from limelens.watch.record.recorded import RecordedEvent as RecordedEvent
from limelens.watch.record.recorded import RecordedExplanation as RecordedExplanation
from limelens.watch.record.recorded import RecordedImage as RecordedImage
from limelens.watch.record.recorded import Silence as Silence
from limelens.watch.record.replay import Replay as Replay
from limelens.watch.record.replay import ReplayedFrame as ReplayedFrame
