"""What lasts: a day's events in the record, and memory over an hour's frames."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.door.people import Person
from benchmarks.door.watching import watching
from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.decisions.decision import Score
from limelens.serve.tools.load import Watch
from limelens.watch.event import Event, EventType, Evidence, FrameVote, new_event_id

_NUM_CAMERAS: Final = 16
_PAGE: Final = 50
_MOST_PAGES: Final = 400
_FLUSH_S: Final = 600.0
_SAMPLES: Final = 8


@dataclass(frozen=True)
class DayOfEvents:
    """Events that were written and paged.

    Args:
        num_events: How many.
        write_s: Until all were on the disk.
        file_mb: The record's size.
        first_ms: The newest page.
        page_ms: Pages on the way to the oldest event.
        search_ms: The newest page of one camera's alerts.
    """

    num_events: int
    write_s: float
    file_mb: float
    first_ms: float
    page_ms: list[float]
    search_ms: float


def write_and_page(num_events: int) -> DayOfEvents:
    """Writes events as cameras bring them, and reads pages of them."""
    from limelens.watch.record import EventFilter, Record
    from limelens.watch.record.settings import RecordSettings
    from limelens.watch.record.writer import RecordWriter

    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        writer = RecordWriter(RecordSettings(path=Path(folder)))
        for number in range(num_events):
            writer.put(_event(number, num_events))
            if number % 500 == 499 and not writer.flush(_FLUSH_S):
                raise RuntimeError(f"events were lost: {writer.problem}")
        if not writer.flush(_FLUSH_S):
            raise RuntimeError(f"events were lost: {writer.problem}")
        write_s = time.monotonic() - began
        writer.close(_FLUSH_S)
        with Record(folder) as record:
            began = time.monotonic()
            page = record.list(limit=_PAGE)
            first_ms = 1000 * (time.monotonic() - began)
            page_ms: list[float] = []
            while page.before and len(page_ms) < _MOST_PAGES:
                began = time.monotonic()
                page = record.list(before=page.before, limit=_PAGE)
                page_ms.append(1000 * (time.monotonic() - began))
            began = time.monotonic()
            record.list(EventFilter(cameras=("3",), states=(CameraState.ALERT,)), limit=_PAGE)
            search_ms = 1000 * (time.monotonic() - began)
            size_mb = record.num_bytes / 1e6
    return DayOfEvents(num_events, write_s, size_mb, first_ms, page_ms, search_ms)


def memory(
    models: Path, people: dict[str, list[Person]], num_frames: int
) -> dict[str, list[float]]:
    """MB of the watch and of the server while so many frames are classified, by process."""
    turns = [one for pair in zip(*people.values(), strict=True) for one in pair]
    frames = [frame for person in turns for frame in person.frames]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(num_frames):
            # A link costs nothing, and the watch reads every file.
            path, first = Path(folder) / f"{number:06}.jpg", number % len(frames)
            if number < len(frames):
                path.write_bytes(frames[number])
            else:
                path.hardlink_to(Path(folder) / f"{first:06}.jpg")
        with watching(models, [folder], rules="window = 5") as running:
            watches = {"watch": Watch(running.watch_pid), "server": Watch(running.server_pid)}
            found: dict[str, list[float]] = {name: [] for name in watches}
            for sample in range(1, _SAMPLES + 1):
                while running.said.num_classified < num_frames * sample / _SAMPLES:
                    if running.said.is_over:
                        break
                    time.sleep(0.02)
                if not running.said.is_over:
                    for name, one in watches.items():
                        found[name].append(one.pss_mb())
    return found


def _event(number: int, of: int) -> Event:
    """One of a day's events: every fourth of a camera is an alert, with the votes behind it."""
    at = datetime.now(UTC) - timedelta(days=1) * (1 - number / of)
    state = (CameraState.ALERT, CameraState.CLEAR)[number // _NUM_CAMERAS % 4 != 0]
    label = "without_mask" if state is CameraState.ALERT else "with_mask"
    share = float(np.clip(0.75 + 0.2 * np.sin(number), 0, 1))
    scores = (Score(label, share), Score("other", 1 - share))
    votes = tuple(FrameVote(number + k, at, label, scores) for k in range(5))
    return Event(
        id=new_event_id(),
        camera_id=str(number % _NUM_CAMERAS),
        sequence=number + 1,
        type=EventType.STATE,
        time=at,
        state=state,
        previous=CameraState.UNKNOWN,
        label=label,
        probability=share,
        frame_id=number,
        capture_time=at,
        model="facemask",
        version=2,
        provider="CPUExecutionProvider",
        evidence=Evidence(number, b"", votes=votes),
    )
