"""What is recorded is found again as it was."""

from __future__ import annotations

import csv
import io
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.waiting import until
from tests.watch.record.made import PATIENCE_S, alert, explanation, jpeg, lost

from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.decisions.decision import Decision, FacePrediction, Prediction
from limelens.serve.errors import LimelensError
from limelens.serve.image import Region, read_image
from limelens.serve.tools.faces.redrawing import draw_overlay
from limelens.watch.event import EventType, document
from limelens.watch.record import (
    EventFilter,
    NoRecordError,
    Record,
    RecordError,
    UnknownEventError,
)
from limelens.watch.record.caption import captioned
from limelens.watch.record.writer import RecordWriter

Start = Callable[..., RecordWriter]
BEGAN = datetime(2026, 3, 1, 8, tzinfo=UTC)


def test_an_event_is_found_as_it_happened(start: Start, folder: Path) -> None:
    event = alert()
    writer = start()
    writer.put(event)
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        found = record.get(event.id)
        assert document(found.event) == document(event)
        assert found.document() | document(event) == found.document()
        assert event.evidence is not None
        assert found.event.evidence is not None
        assert found.event.evidence.rule == event.evidence.rule
        assert [vote.scores for vote in found.event.evidence.votes] == [
            vote.scores for vote in event.evidence.votes
        ]
        (listed,) = record.list().events
        assert listed == replace(found, event=replace(found.event, evidence=None))


def test_no_image_but_the_overlay_of_an_alert_is_kept_unless_asked(
    start: Start, folder: Path
) -> None:
    event = alert()
    cleared = alert(state=CameraState.CLEAR, label="with_mask")
    writer = start()
    for one in (event, cleared):
        writer.put(one)
        writer.explain(explanation(one.id))
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        assert record.frame(event.id) is None
        assert record.thumbnail(event.id) is None
        overlay = record.overlay(event.id)
        assert overlay is not None
        assert overlay.data == b"\x89PNG overlay"
        assert record.overlay(cleared.id) is None
        assert record.get(cleared.id).has_explanation
    assert [path.name for path in (folder / "overlays").iterdir()] == [f"{event.id}.png"]


def test_thumbnails_bring_the_frames_of_alerts(start: Start, folder: Path) -> None:
    event, cleared = alert(), alert(state=CameraState.CLEAR)
    writer = start(thumbnails=True, thumbnail_px=32)
    writer.put(event)
    writer.put(cleared)
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        frame = record.frame(event.id)
        assert event.evidence is not None
        assert frame is not None
        assert frame.data == event.evidence.jpeg
        assert record.frame(cleared.id) is None
        thumbnail = record.thumbnail(cleared.id)
        assert thumbnail is not None
        assert read_image(thumbnail.data).shape == (24, 32, 3)


def test_faces_are_blurred_before_anything_is_kept(start: Start, folder: Path) -> None:
    def blur(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.full_like(pixels, 128)

    event = alert()
    writer = start(blur=blur, blur_faces=True, thumbnails=True)
    writer.put(event)
    writer.explain(explanation(event.id))
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        until(lambda: record.get(event.id).has_frame)
        for image in (record.frame(event.id), record.thumbnail(event.id)):
            assert image is not None
            assert image.is_blurred
            assert np.abs(read_image(image.data).astype(int) - 128).max() < 4
        assert record.overlay(event.id) is None
        assert record.explanation(event.id) is not None


def test_an_overlay_is_drawn_anew_on_blurred_faces(start: Start, folder: Path) -> None:
    grey = np.full((48, 48, 3), 128, np.uint8)
    writer = start(blur=lambda pixels: np.full_like(pixels, 128), blur_faces=True)
    explained, cleared = alert(), alert(state=CameraState.CLEAR)
    for event in (explained, cleared):
        writer.put(event)
        # What is drawn on the frame as it was must not be kept.
        writer.explain(
            explanation(event.id, overlay_png=b"faces", title="bare 0.90", jpeg=jpeg(48, 48))
        )
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        until(lambda: record.get(explained.id).has_overlay)
        kept = record.overlay(explained.id)
    writer.close(PATIENCE_S)
    assert kept is not None
    found = explanation(explained.id).explanation
    assert found is not None
    file = io.BytesIO()
    Image.fromarray(draw_overlay(grey, found, found.explanations[0])).save(file, "PNG")
    expected = captioned(file.getvalue(), "bare 0.90", explained.camera_id, explained.time)
    assert kept.data == expected
    with Record(folder) as record:
        assert not record.get(cleared.id).has_overlay
        assert record.frame(explained.id) is None
    assert [path.stem for path in (folder / "overlays").iterdir()] == [explained.id]


def test_without_faces_found_no_image_is_kept_and_the_event_is(start: Start, folder: Path) -> None:
    def blur(_: NDArray[np.uint8]) -> NDArray[np.uint8]:
        raise LimelensError("no detector")

    event = alert()
    writer = start(blur=blur, blur_faces=True, thumbnails=True)
    writer.put(event)
    assert writer.flush(PATIENCE_S)
    until(lambda: "no detector" in writer.problem)
    writer.explain(explanation(event.id, jpeg=jpeg(48, 48)))
    assert writer.flush(PATIENCE_S)
    until(lambda: "overlays are not kept: no detector" in writer.problem)
    with Record(folder) as record:
        assert not record.get(event.id).has_frame
        assert not record.get(event.id).has_overlay
    with pytest.raises(RecordError, match="face detector"):
        start(blur_faces=True)


def test_an_explanation_is_found_as_it_was(start: Start, folder: Path) -> None:
    event, refused = alert(), alert()
    writer = start()
    given = explanation(event.id)
    writer.put(event)
    writer.put(refused)
    writer.explain(given)
    writer.explain(explanation(event.id, explanation=None, reason="a second one is ignored"))
    writer.explain(explanation(refused.id, explanation=None, reason="busy", overlay_png=b""))
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        found = record.explanation(event.id)
        assert found is not None
        assert found.explanation is not None
        assert given.explanation is not None
        assert vars(found.explanation) == vars(given.explanation)
        other = record.explanation(refused.id)
        assert other is not None
        assert (other.explanation, other.reason) == (None, "busy")
        assert record.explanation("none") is None


def test_pages_go_back_in_time_through_every_filter(start: Start, folder: Path) -> None:
    writer = start(max_age_days=36500)
    states = (CameraState.ALERT, CameraState.CLEAR)
    events = [
        alert(
            camera_id=("door", "gate", "hall_%")[number % 3],
            sequence=number,
            state=states[number % 2],
            label=("without_mask", "with_mask")[number % 2],
            time=BEGAN + timedelta(seconds=number // 2),  # two at a time
        )
        for number in range(60)
    ]
    events.append(lost(camera_id="gate", time=BEGAN + timedelta(seconds=100)))
    for event in events:
        writer.put(event)
    assert writer.flush(PATIENCE_S)

    def walk(asked: EventFilter, search: str = "") -> list[str]:
        ids, before = [], ""
        while True:
            page = record.list(asked, search, before=before, limit=7)
            ids += [one.id for one in page.events]
            before = page.before
            if not before:
                return ids

    with Record(folder) as record:
        newest_first = [event.id for event in reversed(events)]
        assert walk(EventFilter()) == newest_first
        assert [one.id for one in record.oldest_first()] == newest_first[::-1]
        chosen = EventFilter(
            cameras=("door", "gate"),
            states=(CameraState.ALERT,),
            labels=("without_mask",),
            types=(EventType.STATE,),
            since=BEGAN + timedelta(seconds=5),
            until=BEGAN + timedelta(seconds=25),
        )
        expected = [
            event.id
            for event in reversed(events[10:50])
            if event.camera_id != "hall_%" and event.state == CameraState.ALERT
        ]
        assert walk(chosen) == expected
        assert record.count(chosen) == len(expected)
        assert record.count() == 61
        assert walk(EventFilter(), "PASSWORD (401)") == [events[-1].id]
        assert len(walk(EventFilter(), "L_%")) == 20  # taken literally
        assert record.values("camera_id") == ("door", "gate", "hall_%")
        assert record.values("label") == ("with_mask", "without_mask")
        for cursor in ("x", "1-", f"{10**30}-1"):
            with pytest.raises(RecordError, match="continues no list"):
                record.list(before=cursor)
        with pytest.raises(RecordError, match="Unicode"):
            record.list(search="\ud800")


def test_an_event_is_decided_again(start: Start, folder: Path) -> None:
    event, gone, nobody = alert(), lost(), alert(evidence=None)
    writer = start()
    for one in (event, gone, nobody):
        writer.put(one)
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        same = record.replay(event.id)
        assert (same.state, same.label, same.differs) == ("alert", "without_mask", False)
        assert [one.decision for one in same.frames] == [None, None, None, None, "without_mask"]
        strict = record.replay(event.id, threshold=0.95)
        assert (strict.state, strict.differs) == (CameraState.UNKNOWN, True)
        assert [one.label for one in strict.frames] == [None] * 5
        steady = record.replay(event.id, required_to_alert=3, required=3)
        assert (steady.state, steady.label) == (CameraState.CLEAR, "with_mask")
        assert record.replay(event.id, window=9).num_missing == 4
        for wrong in ({"threshold": 2.0}, {"window": 0}, {"required": 2}, {"required_to_alert": 9}):
            with pytest.raises(RecordError, match="expected"):
                record.replay(event.id, **wrong)
        with pytest.raises(RecordError, match="no recorded frames"):
            record.replay(gone.id)


def test_a_wrong_event_goes_to_training(start: Start, folder: Path, tmp_path: Path) -> None:
    event = alert()
    writer = start(frames="alerts")
    writer.put(event)
    assert writer.flush(PATIENCE_S)
    review = tmp_path / "review"
    with Record(folder) as record:
        noted = record.mark_wrong(event.id, "with_mask", "guard", review)
        assert Path(noted.file) == review / "with_mask" / f"{event.id}.jpg"
        for path in (review, review / "with_mask", Path(noted.file)):
            assert not path.stat().st_mode & 0o077, path
        assert event.evidence is not None
        assert Path(noted.file).read_bytes() == event.evidence.jpeg
        assert record.get(event.id).correction == noted
        assert record.count(EventFilter(corrected=True)) == 1
        # One frame never has two labels.
        again = record.mark_wrong(event.id, "scarf", "guard", review)
        assert [path.parent.name for path in review.rglob("*.jpg")] == ["scarf"]
        assert record.get(event.id).correction == again
        for label in ("../up", "a/b", "", ".hidden", "a\nb", "x" * 300):
            with pytest.raises(RecordError, match="cannot be a label"):
                record.mark_wrong(event.id, label, "guard", review)
        with pytest.raises(UnknownEventError):
            record.mark_wrong("none", "with_mask", "guard", review)
    assert not (tmp_path / "up").exists()


def test_exports_hold_every_event(start: Start, folder: Path) -> None:
    events = [alert(camera_id='=HYPERLINK("x")', label="\uff1d1+1"), lost(detail="\n=1+1")]
    writer = start()
    for event in events:
        writer.put(event)
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        files = {form: io.BytesIO() for form in ("csv", "jsonl", "parquet")}
        for form, file in files.items():
            assert record.export(file, form) == 2  # type: ignore[arg-type]
        documents = [json.loads(line) for line in files["jsonl"].getvalue().splitlines()]
        assert documents == [one.document() for one in record.oldest_first()]
        rows = list(csv.DictReader(io.StringIO(files["csv"].getvalue().decode())))
        assert [row["id"] for row in rows] == [event.id for event in events]
        # A spreadsheet must not calculate what a camera is called.
        assert rows[0]["camera_id"] == '\'=HYPERLINK("x")'
        assert (rows[0]["label"], rows[1]["detail"]) == ("'\uff1d1+1", "'\n=1+1")
        table = pq.read_table(io.BytesIO(files["parquet"].getvalue())).to_pylist()
        assert table[0]["camera_id"] == '=HYPERLINK("x")'
        assert dict(table[0]["votes"]) == {"with_mask": 3, "without_mask": 2}
        assert table[1]["reason"] == "camera_lost"
        with pytest.raises(RecordError, match="no format"):
            record.export(io.BytesIO(), "xml")  # type: ignore[arg-type]


def test_only_the_owner_may_read_it(start: Start, folder: Path) -> None:
    event = alert()
    writer = start()
    writer.put(event)
    writer.explain(explanation(event.id))
    assert writer.flush(PATIENCE_S)
    for path in (folder, *folder.rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\x00b", "..", "käse 🚪"])
def test_no_name_of_a_camera_is_a_path(
    start: Start, folder: Path, tmp_path: Path, name: str
) -> None:
    event = alert(camera_id=name)
    writer = start(thumbnails=True)
    writer.put(event)
    writer.explain(explanation(event.id))
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        assert record.get(event.id).camera_id == name
    assert [path.name for path in (folder / "overlays").iterdir()] == [f"{event.id}.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["record"]


def test_an_event_is_called_by_a_part_of_its_id(start: Start, folder: Path) -> None:
    events = [alert(), alert()]
    writer = start()
    for event in events:
        writer.put(event)
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        assert record.find(events[0].id[-12:]).id == events[0].id
        with pytest.raises(UnknownEventError, match="several"):
            record.find(events[0].id[:4])
        with pytest.raises(UnknownEventError, match="no event"):
            record.find("zzz")


def test_a_place_without_a_record_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoRecordError, match="no record; expected the folder"):
        Record(tmp_path)


def test_training_gets_the_part_that_was_judged(start: Start, folder: Path, tmp_path: Path) -> None:
    event = alert()
    assert event.evidence is not None
    event = replace(event, evidence=replace(event.evidence, region=Region(0.25, 0, 0.75, 1)))
    writer = start(frames="changes")
    writer.put(event)
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        noted = record.mark_wrong(event.id, "with_mask", review_folder=tmp_path / "review")
    with Image.open(noted.file) as image:
        assert image.size == (32, 48)


def test_training_gets_the_face_of_the_person_it_is_about(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    nobody = Prediction(Decision.ABSTAINED, None, (), False, (), 0.5, None)
    faces = tuple(
        FacePrediction(Region(left, 0.4, left + 0.25, 0.6), 0.9, nobody, person=person)
        for person, left in ((1, 0.0), (2, 0.5))
    )
    event = alert(person=2, people=2)
    assert event.evidence is not None
    event = replace(event, evidence=replace(event.evidence, faces=faces))
    writer = start(frames="changes")
    writer.put(event)
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        noted = record.mark_wrong(event.id, "with_mask", review_folder=tmp_path / "review")
    assert event.evidence is not None
    whole = read_image(event.evidence.jpeg)
    part = read_image(Path(noted.file).read_bytes())
    left, right = round(64 * (0.5 - 0.35 * 0.25)), round(64 * (0.75 + 0.35 * 0.25))
    top, bottom = round(48 * (0.4 - 0.35 * 0.2)), round(48 * (0.6 + 0.35 * 0.2))
    assert part.shape == (bottom - top, right - left, 3)
    assert np.abs(part.astype(int) - whole[top:bottom, left:right]).mean() < 20
