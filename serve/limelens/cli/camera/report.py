"""What `limelens camera` counts and writes: statuses, changes, and a file for each overlay."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from limelens.cli.terminal.faces import as_png
from limelens.serve.errors import LimelensError
from limelens.serve.files import write_whole
from limelens.serve.image import read_image
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.serve.client.results import FrameAnswer, ModelInfo, ServedExplanation
    from limelens.serve.tools.camera import Source, SourceAnswer
    from limelens.serve.tools.faces.face_blurrer import FaceBlurrer

BAD: Final = ("invalid", "failed")
"""Statuses of frames that could not be classified."""
_MAX_CHANGES: Final = 1000
"""The last changes, which the document at the end names."""
_RATE_OVER_S: Final = 5.0
_LONGEST_PART: Final = 80
"""Bytes of a camera's name and of a label in the name of a file."""


class Report:
    """Counts and changes so far.

    Args:
        source: The camera, video or folder.
        model: What the server says of the model; None if the caller may not know.
        camera_id: The camera's name, for overlays' names.
        folder: Where overlays are written; None is nowhere.
        warn: Called with a sentence when an overlay cannot be written.
        blurrer: Blurs the faces in overlays, except the one that is explained; None leaves them.
    """

    def __init__(
        self,
        source: Source,
        model: ModelInfo | None,
        camera_id: str,
        folder: Path | None,
        warn: Callable[[str], object],
        blurrer: FaceBlurrer | None = None,
    ) -> None:
        self.source = source
        self._model = model
        self._camera_id = camera_id
        self._folder = folder
        self._warn = warn
        self._blurrer = blurrer
        self._began = time.monotonic()
        self._statuses: Counter[str] = Counter()
        self._explained: Counter[str] = Counter()
        self._last: FrameAnswer | None = None
        self._num_changes = 0
        self._is_failure_reported = False
        self._changes: deque[dict[str, Any]] = deque(maxlen=_MAX_CHANGES)
        self._classified: deque[float] = deque()

    def add(self, found: SourceAnswer) -> Path | None:
        """Counts an answer; returns the file of its overlay."""
        answer = found.answer
        self._last = answer
        if answer.explanation is not None:
            self._explained[answer.explanation.status.value] += 1
            written = self._write(found)
            key = answer.frame_id, answer.explanation.person
            for change in reversed(self._changes):
                if (change["frame_id"], change["person"]) == key:
                    change["overlay"] = None if written is None else str(written)
                    break
            return written
        if answer.status != "decision_expired":
            self._statuses[answer.status.value] += 1
        if answer.status == "classified":
            now = time.monotonic()
            self._classified.append(now)
            while self._classified[0] < now - _RATE_OVER_S:
                self._classified.popleft()
        for face in answer.faces:
            if face.changed:
                self._add_change(found, face.smoothed_label, alert=face.alert, person=face.person)
        if answer.changed:
            self._add_change(found, answer.smoothed_label, alert=answer.alert, person=None)
        return None

    def _add_change(
        self, found: SourceAnswer, label: str | None, *, alert: bool, person: int | None
    ) -> None:
        self._num_changes += 1
        self._changes.append(
            {
                "frame_id": found.answer.frame_id,
                "place": found.place,
                "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
                "label": label,
                "alert": alert,
                "person": person,
            }
        )

    @property
    def num_bad(self) -> int:
        """Frames that could not be classified."""
        return sum(self._statuses[status] for status in BAD)

    @property
    def fps(self) -> float:
        """Frames classified a second, over the last seconds."""
        if not self._classified:
            return 0.0
        now = time.monotonic()
        recent = sum(at > now - _RATE_OVER_S for at in self._classified)
        return recent / max(min(_RATE_OVER_S, now - self._began), 0.1)

    def document(self) -> dict[str, Any]:
        """The document of `--json`."""
        last = self._last
        model, info = None if last is None else last.model, self._model
        return {
            "source": self.source.name,
            "camera_id": self._camera_id,
            "model": model.name if model else info.name if info else None,
            "version": model.version if model else info.version if info else None,
            "provider": model.provider if model else info.provider if info else None,
            "seconds": round(time.monotonic() - self._began, 3),
            "num_frames": sum(self._statuses.values()),
            "statuses": dict(self._statuses),
            "dropped_frames": 0 if last is None else last.dropped_frames,
            "skipped_frames": self.source.num_skipped,
            "decision": None if last is None else last.smoothed_label,
            "alert": last is not None and last.alert,
            "smoothed_decision": None if last is None else last.smoothed_decision.value,
            "num_changes": self._num_changes,
            "changes": list(self._changes),
            "explanations": dict(self._explained),
        }

    def summary(self) -> str:
        """The last line that is printed."""
        num_frames = sum(self._statuses.values())
        others = ", ".join(
            f"{count} {status}"
            for status, count in self._statuses.items()
            if status != "classified"
        )
        return (
            f"{counted(num_frames, 'frame')}{f' ({others})' if others else ''}, "
            f"{counted(self._num_changes, 'change')}, "
            f"{self.source.num_skipped} skipped"
        )

    def _write(self, found: SourceAnswer) -> Path | None:
        change = found.answer.explanation
        if self._folder is None or change is None or change.explanation is None:
            return None
        who = "" if change.person is None else f"-person_{change.person}"
        name = f"{file_name(self._camera_id)}-{found.answer.frame_id:06}{who}"
        path = self._folder / f"{name}-{file_name(change.label)}.png"
        try:
            png = self._overlay(found.image, change.explanation)
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, png)
        except (OSError, LimelensError) as error:
            # Watching matters more than an overlay.
            if not self._is_failure_reported:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                self._warn(f"{path}: {reason}; going on without overlays that cannot be written")
            self._is_failure_reported = True
            return None
        self._is_failure_reported = False
        return path

    def _overlay(self, frame: bytes, explanation: ServedExplanation) -> bytes:
        one = explanation.explanations[0]
        if self._blurrer is None:
            return one.overlay_png
        from limelens.serve.tools.faces.redrawing import draw_overlay

        pixels = self._blurrer.blur(read_image(frame), explanation.face)
        return as_png(draw_overlay(pixels, explanation, one))


def file_name(text: str) -> str:
    """A text as part of a file name, short enough for every file system."""
    plain = re.sub(r"[^\w-]+", "_", text).encode()[:_LONGEST_PART]
    return plain.decode(errors="ignore")
