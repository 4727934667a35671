"""Whether a camera is well, lost or frozen, and who is told.

It knows frames and reasons, and nothing of how a camera is opened.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from limelens.serve.tools.camera.faults import LossReason, SourceError
from limelens.serve.tools.camera.outage import Outage
from limelens.serve.tools.camera.stillness import Stillness
from limelens.serve.tools.camera.video import brightness

if TYPE_CHECKING:
    from av import VideoFrame

_LOOK_EVERY_S: Final = 0.2
"""How often a frame is compared with earlier ones."""


class Health:
    """The health of one camera; its reading thread alone calls the methods.

    Args:
        name: The camera's, without secrets.
        frozen_after_s: Seconds of the same frame after which it is frozen; 0 is never.
        report: Called with a sentence when something changes.
        on_lost: Called when it is lost or frozen, or for another reason than before.
        on_back: Called when it is well again.
    """

    def __init__(
        self,
        name: str,
        frozen_after_s: float,
        report: Callable[[str], object],
        on_lost: Callable[[SourceError], object],
        on_back: Callable[[], object],
    ) -> None:
        self.loss: SourceError | None = None
        """Why it is lost or frozen now; None if it is not."""
        self._name = name
        self._frozen_after_s = frozen_after_s
        self._report = report
        self._on_lost = on_lost
        self._on_back = on_back
        self._outage = Outage()
        self._stillness = Stillness(frozen_after_s) if frozen_after_s else None
        self._look_at = 0.0

    def lose(self, error: SourceError, then: str = "looking for it again") -> float:
        """Says that it is lost: at once, when the reason changes, and at growing intervals.

        Returns:
            Seconds until it should be tried again.
        """
        now = time.monotonic()
        self.loss = error
        if self._outage.failed(error.reason, now):
            self._report(f"{error}; {then}")
            self._on_lost(error)
        elif lost_s := self._outage.reminds(now):
            self._report(f"{error}; {then}, for {lost_s:.0f} s now")
        return self._outage.wait_s()

    def is_frozen(self, frame: VideoFrame) -> bool:
        """Whether a frame is a repetition that does not count; any other frame makes it well."""
        now = time.monotonic()
        if self._stillness is not None and now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            if self._stillness.is_frozen(brightness(frame), now):
                words = f"it is frozen, the same frame for {self._frozen_after_s:g} s or longer"
                error = SourceError(f"{self._name}: {words}", LossReason.FROZEN)
                self.lose(error, "waiting for another frame")
                return True
        elif self.loss is not None and self.loss.reason is LossReason.FROZEN:
            return True
        self.well()
        return False

    def well(self) -> None:
        """Notes that a frame came that counts; says so if it was lost."""
        if self._outage.back(time.monotonic()):
            self.loss = None
            self._report(f"{self._name}: found again")
            self._on_back()
