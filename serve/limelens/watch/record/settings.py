"""The section `[record]` of the cameras' file: what is recorded, and how long it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

_GIB: Final = 1 << 30


class RecordSettings(BaseModel):
    """What the record keeps of events, and how long.

    Without options no image of a person is kept but the overlays of alerts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="The folder of the record; it is made if it does not exist.")
    thumbnails: bool = Field(
        default=False,
        description="Keep a small JPEG of the frame with each event that one brought.",
    )
    frames: Literal["never", "alerts", "changes"] | None = Field(
        default=None,
        description="Keep the frame as it was decided: of alerts, or of every change. Left out: of "
        "alerts if thumbnails are kept, else never.",
    )
    overlays: bool = Field(
        default=True, description="Keep the overlay of each alert that was explained."
    )
    blur_faces: bool = Field(
        default=False,
        description="Blur every face in thumbnails, frames and overlays before they are kept.",
    )
    thumbnail_px: int = Field(
        default=160, ge=32, le=640, description="The longer side of a thumbnail, in pixels."
    )
    max_age_days: float = Field(
        default=30, gt=0, le=36500, description="After so many days an event is removed."
    )
    max_bytes: int = Field(
        default=4 * _GIB,
        ge=1 << 20,
        description="Above so many bytes, files included, the oldest events are removed.",
    )

    @property
    def frames_of(self) -> Literal["never", "alerts", "changes"]:
        """Of which events the frame is kept."""
        if self.frames is not None:
            return self.frames
        return "alerts" if self.thumbnails else "never"
