"""One steady decision from a camera's flickering ones: k of the last n, with hysteresis."""

from __future__ import annotations

from collections import deque


class Smoothing:
    """The smoothed decision of one stream, which begins as unknown.

    The decision changes to a label once enough of the last `window` frames have it, and becomes
    unknown once as many frames abstain. Otherwise it stays.

    Args:
        window: How many frames to consider, at least 1.
        required: How many of them must agree: more than half of the window, so that no two labels
            can both have enough.
        required_to_alert: How many must agree on an alert label, 1 to `required`; None is
            `required`. If it is less, an alert discards the frames before it, which would clear it
            at once.
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
        """Adds one frame's label, None if the model abstained; returns the smoothed decision."""
        self._last.append(label)
        required = self._required_to_alert if is_alert else self._required
        if self._last.count(label) >= required and label != self._label:
            self._label = label
            if required < self._required:
                self._last.clear()
                self._last.append(label)
        return self._label

    def forget(self) -> None:
        """Makes the decision unknown and discards all frames."""
        self._last.clear()
        self._label = None
