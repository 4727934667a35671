"""One steady decision from a camera's flickering ones: k of the last n, with hysteresis.

It knows labels and their order in time, and nothing of images, models or messages.
"""

from __future__ import annotations

from collections import deque


class Smoothing:
    """The smoothed decision of one stream; it begins unknown.

    The decision changes to what a frame says once enough of the last `window` frames say it, and
    becomes unknown once as many abstain. In between it stays what it was.

    Args:
        window: Frames looked back on, at least 1.
        required: Frames that must agree: more than half of the window, so that no two labels
            can both have enough.
        required_to_alert: In its place for labels that somebody must be told of, 1 to `required`;
            None is `required`. Where it is less, what was said before an alert does not count
            against it: else the frames before it would clear it at once.
    """

    def __init__(
        self, window: int = 1, required: int = 1, *, required_to_alert: int | None = None
    ) -> None:
        self._last: deque[str | None] = deque(maxlen=window)
        self._required = required
        self._required_to_alert = required if required_to_alert is None else required_to_alert
        self._label: str | None = None

    @property
    def label(self) -> str | None:
        """The smoothed decision; None while it is unknown."""
        return self._label

    def add(self, label: str | None, *, is_alert: bool = False) -> str | None:
        """Takes one frame's decision.

        Args:
            label: What the frame says; None where the model abstained.
            is_alert: Whether somebody must be told of it.

        Returns:
            The smoothed decision.
        """
        self._last.append(label)
        required = self._required_to_alert if is_alert else self._required
        if self._last.count(label) >= required and label != self._label:
            self._label = label
            if required < self._required:
                self._last.clear()
                self._last.append(label)
        return self._label

    def forget(self) -> None:
        """Makes the decision unknown: what was seen so far no longer counts."""
        self._last.clear()
        self._label = None
