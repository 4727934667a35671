"""Notes what an event should have been, and gives its frame to `limelens train`.

It knows the record and folders of labels, and nothing of who may correct.
"""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from PIL import Image

from limelens.serve.faces.boxes import DEFAULT_MARGIN
from limelens.serve.files import write_whole
from limelens.serve.folders.names import label_name
from limelens.serve.image import Region, read_image
from limelens.watch.event import Event
from limelens.watch.record.database import FILE, in_words, open_to_write, transaction
from limelens.watch.record.documents import from_ms, to_ms
from limelens.watch.record.errors import RecordError, UnknownEventError
from limelens.watch.record.recorded import Correction, RecordedEvent, RecordedImage

_QUALITY: Final = 95
_LONGEST_LABEL: Final = 200


def mark_wrong(
    folder: Path,
    found: RecordedEvent,
    frame: RecordedImage | None,
    label: str,
    by: str,
    review_folder: Path | None,
) -> Correction:
    """Takes, returns and raises what `Record.mark_wrong` does, for the record in a folder."""
    label = label_name(label.strip())
    _check_label(label)
    path: Path | None = None
    if review_folder is not None and frame is not None and not frame.is_blurred:
        path = review_folder / label / f"{found.id}.jpg"
        for made in (review_folder, path.parent):
            # Faces are nobody else's business, here as in the record.
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, _judged(frame.data, found.event), mode=0o600)
    noted = Correction(
        label,
        by,
        from_ms(to_ms(datetime.now(UTC))),
        "" if path is None else os.fspath(path.absolute()),
    )
    try:
        before = _note(folder, found, noted)
    except BaseException:
        if path is not None:
            path.unlink(missing_ok=True)
        raise
    # One frame must not be given to training with two labels.
    if before and before != noted.file and Path(before).name == f"{found.id}.jpg":
        Path(before).unlink(missing_ok=True)
    return noted


def _note(folder: Path, found: RecordedEvent, noted: Correction) -> str:
    """Records a correction; returns the file of the one that it replaces, or nothing."""
    with in_words(folder / FILE):
        connection = open_to_write(folder, create=False)
        try:
            with transaction(connection):
                before = connection.execute(
                    "SELECT file FROM corrections WHERE event = ?", (found.number,)
                ).fetchone()
                added = connection.execute(
                    "INSERT INTO corrections SELECT number, ?, ?, ?, ? FROM events WHERE id = ? "
                    "ON CONFLICT (event) DO UPDATE SET label = excluded.label, "
                    "by = excluded.by, time_ms = excluded.time_ms, file = excluded.file",
                    (noted.label, noted.by, to_ms(noted.time), noted.file, found.id),
                )
                if not added.rowcount:
                    raise UnknownEventError(f"event {found.id} was removed meanwhile")
        finally:
            connection.close()
    return "" if before is None else str(before[0])


def _check_label(label: str) -> None:
    """Raises `RecordError` unless a label can be the name of a folder, and of one below."""
    is_plain = label.isprintable() and not {*label} & {*'/\\:*?"<>|'} and label[:1] != "."
    if not label or not is_plain or len(label.encode()) > _LONGEST_LABEL:
        raise RecordError(
            f"{label!r} cannot be a label; expected the name of a folder: printable, without "
            f'/ \\ : * ? " < > | and no dot at its start, up to {_LONGEST_LABEL} bytes'
        )


def _judged(jpeg: bytes, event: Event) -> bytes:
    """The part of the frame that the model saw, as a JPEG; the frame itself if that is all."""
    region = _region(event)
    if region is None:
        return jpeg
    pixels = read_image(jpeg)
    left, top, right, bottom = region.box(*pixels.shape[:2])
    file = io.BytesIO()
    Image.fromarray(pixels[top:bottom, left:right]).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _region(event: Event) -> Region | None:
    evidence = event.evidence
    if evidence is None:
        return None
    for face in evidence.faces:
        if face.person == event.person:
            box = face.box
            x, y = DEFAULT_MARGIN * (box.right - box.left), DEFAULT_MARGIN * (box.bottom - box.top)
            return Region(
                max(0.0, box.left - x),
                max(0.0, box.top - y),
                min(1.0, box.right + x),
                min(1.0, box.bottom + y),
            )
    return evidence.region
