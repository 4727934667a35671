"""`limelens events`, on a record as a camera left it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.watch.record.made import PATIENCE_S, alert, explanation, lost

from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.event import ON_CHANGE, Event, EventType
from limelens.watch.record import Record
from limelens.watch.record.settings import RecordSettings
from limelens.watch.record.writer import RecordWriter

Run = Callable[..., Any]
WEEK_AGO = datetime.now(UTC) - timedelta(days=7)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """An alert, explained; a doubtful one of one of several people; a camera lost."""
    folder = tmp_path_factory.mktemp("events") / "record"
    writer = RecordWriter(RecordSettings(path=folder, frames="alerts"))
    events = [
        alert(time=WEEK_AGO),
        alert(camera_id="gate", person=3, people=4, time=WEEK_AGO + timedelta(days=1)),
        lost(),
        alert(state=CameraState.CLEAR, previous=CameraState.UNKNOWN, label="with_mask"),
    ]
    for event in events:
        writer.put(event)
    writer.explain(explanation(events[0].id))
    doubtful = explanation(events[1].id)
    assert doubtful.explanation is not None
    (one,) = doubtful.explanation.explanations
    poor = replace(doubtful.explanation, explanations=(replace(one, stability=0.3),))
    writer.explain(replace(doubtful, explanation=poor))
    assert writer.flush(PATIENCE_S)
    writer.close(PATIENCE_S)
    return folder, events


@pytest.fixture
def events(
    limelens: Run, recorded: tuple[Path, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.setenv("LIMELENS_RECORD", str(recorded[0]))
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: limelens("events", *arguments)


def test_the_newest_events_come_first_and_pages_go_on(
    events: Run, recorded: tuple[Path, list[Event]]
) -> None:
    ids = [event.id for event in reversed(recorded[1])]
    first = events("list", "--limit", 3, "--json").json
    assert [one["id"] for one in first["events"]] == ids[:3]
    assert first["num_events"] == 4
    rest = events("list", "--before", first["before"], "--json").json
    assert [one["id"] for one in rest["events"]] == ids[3:]
    assert rest["before"] is None

    shown = events("list", "--state", "alert", "--since", "9d", "--until", "5d").stdout
    assert "2 of 2 events" in shown
    assert max(map(len, shown.splitlines())) <= 80
    shown = events("list", "--search", "refused the password").stdout
    assert "camera lost" in shown
    assert "1 of 1 event" in shown
    for time in ("yesterday", "999999w", "0001-01-01T00:00+01:00"):
        assert events("list", "--since", time).exit_code == 2


def test_only_types_that_are_recorded_can_be_chosen(
    events: Run, recorded: tuple[Path, list[Event]]
) -> None:
    for one in EventType:
        result = events("list", "--type", one, "--json")
        if one in ON_CHANGE:
            ids = [event.id for event in reversed(recorded[1]) if event.type is one]
            assert [found["id"] for found in result.json["events"]] == ids
        else:
            assert result.exit_code == 2


def test_a_week_old_event_is_explained_from_the_record_alone(
    events: Run, recorded: tuple[Path, list[Event]]
) -> None:
    alerted, doubtful, gone, _ = recorded[1]
    said = events("why", alerted.id[-12:]).stdout
    for sentence in (
        f"ALERT at door, {alerted.time:%Y-%m-%d %H:%M:%S} UTC, event {alerted.id}",
        "The state changed from clear to alert: without_mask, probability 0.90.",
        "Of the last 5 frames, 2 said without_mask:",
        "without_mask (without_mask 0.80, with_mask 0.20)",
        "Needed were 2 of 5 frames for an alert, and 4 of 5 for anything else, each with a label "
        "of 0.50 or more.",
        "The model was facemask version 2 on CPUExecutionProvider.",
        "lower middle of the image: +0.25 for without_mask (±0.02)",
        "upper middle of the image: -0.10 against without_mask (±0.02)",
        "Fit (R²) 0.92, stability 0.96",
        "Fit and stability raise no doubt about this explanation.",
    ):
        assert sentence in said

    said = events("why", doubtful.id).stdout
    assert "about person 3, with 4 people there" in said
    assert "This explanation is not reliable:\n  The stability is 0.30" in said

    said = events("why", gone.id).stdout
    assert "the camera could not be read (the camera refused the password (401))" in said
    assert "No frame brought this event." in said


def test_why_decides_again(events: Run, recorded: tuple[Path, list[Event]]) -> None:
    event = recorded[1][0]
    found = events("why", event.id, "--required-to-alert", 3, "--required", 3, "--json").json
    assert found["reliable"] is True
    assert found["regions"][0]["sentence"] == "lower middle of the image: +0.25 for without_mask"
    replay = found["replay"]
    assert (replay["state"], replay["label"], replay["differs"]) == ("clear", "with_mask", True)
    said = events("why", event.id, "--threshold", 0.95).stdout
    assert "unknown (another decision)" in said


def test_show_writes_what_was_kept(
    events: Run, recorded: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    alerted, *_, cleared = recorded[1]
    result = events("show", alerted.id, "--overlay", tmp_path / "a.png", "--frame",
                    tmp_path / "a.jpg", "--json")  # fmt: skip
    with Record(recorded[0]) as record:
        assert result.json == record.get(alerted.id).document()
    assert alerted.evidence is not None
    assert (tmp_path / "a.jpg").read_bytes() == alerted.evidence.jpeg
    assert (tmp_path / "a.png").read_bytes() == b"\x89PNG overlay"
    result = events("show", cleared.id, "--frame", tmp_path / "b.jpg")
    assert result.exit_code == 1
    assert "no frame was kept" in result.stderr
    assert not (tmp_path / "b.jpg").exists()


def test_export_writes_every_format(
    events: Run, recorded: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    ids = [event.id for event in recorded[1]]
    rows = csv.DictReader(io.StringIO(events("export").stdout))
    assert [row["id"] for row in rows] == ids
    lines = events("export", "--format", "jsonl", "--camera", "gate").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [ids[1]]
    path = tmp_path / "events.parquet"
    assert "4 events" in events("export", "--out", path).stdout
    assert pq.read_table(path).column("id").to_pylist() == ids
    assert events("export", "--out", tmp_path / "events.xls").exit_code == 2


def test_what_a_camera_said_does_not_steer_the_terminal(limelens: Run, tmp_path: Path) -> None:
    writer = RecordWriter(RecordSettings(path=tmp_path))
    event = lost(detail="\x1b]0;pwned\x07", reason="[red]\x1b[2J")
    writer.put(event)
    assert writer.flush(PATIENCE_S)
    writer.close(PATIENCE_S)
    for command in (["list"], ["show", event.id], ["why", event.id]):
        said = limelens("events", *command, "--record", tmp_path).stdout
        assert "[red]\N{REPLACEMENT CHARACTER}[2J" in said
        assert "\x1b" not in said


def test_what_is_missing_is_said(limelens: Run, tmp_path: Path) -> None:
    writer = RecordWriter(RecordSettings(path=tmp_path))
    writer.put(alert(id="../up"))
    writer.close(PATIENCE_S)
    result = limelens("events", "list", "--record", tmp_path)
    assert "0 of 0 events" in result.stdout
    assert "1 gap in the record" in result.stderr
    assert "1 event and 0 images lost ('../up' is no id of an event" in result.stderr
    (gap,) = limelens("events", "list", "--record", tmp_path, "--json").json["gaps"]
    assert gap["num_events"] == 1


def test_where_there_is_no_record_it_says_how_to_name_one(limelens: Run, tmp_path: Path) -> None:
    result = limelens("events", "list", "--record", tmp_path)
    assert result.exit_code == 1
    assert "there is no record" in result.stderr
    assert "--record or LIMELENS_RECORD" in result.stderr
