"""One steady decision from a camera's flickering ones: k of the last n, with hysteresis.

It knows labels and their order in time, and nothing of pictures, models or messages.
"""

from __future__ import annotations

from collections import deque


class Smoothing:
    """The smoothed decision of one stream; it begins unknown.

    The decision changes to a label once `required` of the last `window` frames say it, and
    becomes unknown once as many abstain. In between it stays what it was.

    Args:
        window: Frames looked back on, at least 1.
        required: Frames that must agree: more than half of the window, so that no two labels
            can both have enough.
    """

    def __init__(self, window: int = 1, required: int = 1) -> None:
        self._last: deque[str | None] = deque(maxlen=window)
        self._required = required
        self._label: str | None = None

    @property
    def label(self) -> str | None:
        """The smoothed decision; None while it is unknown."""
        return self._label

    def add(self, label: str | None) -> str | None:
        """Takes one frame's decision.

        Args:
            label: What the frame says; None where the model abstained.

        Returns:
            The smoothed decision.
        """
        self._last.append(label)
        if self._last.count(label) >= self._required:
            self._label = label
        return self._label

    def forget(self) -> None:
        """Makes the decision unknown: what was seen so far no longer counts."""
        self._last.clear()
        self._label = None
