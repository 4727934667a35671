"""A camera whose frames a test sends one by one."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

from limelens.serve import Client, FrameAnswer


class Paced:
    """Sends the next frame once the last was answered.

    Args:
        client: Opens the stream.
        settings: Arguments of `Client.stream`.
    """

    def __init__(self, client: Client, **settings: Any) -> None:
        self._frames: queue.Queue[Any] = queue.Queue()
        self._answers = client.stream(self._sent(), **settings)

    def _sent(self) -> Iterator[Any]:
        while (frame := self._frames.get()) is not None:
            yield frame

    def __call__(self, frame: Any) -> FrameAnswer:
        self.send(frame)
        return self.answer()

    def send(self, frame: Any) -> None:
        """Sends a frame and waits for nothing; None ends the frames."""
        self._frames.put(frame)

    def answer(self) -> FrameAnswer:
        """The next answer, which may also come without a frame."""
        return next(self._answers)

    def leave(self) -> None:
        """Ends the frames, and reads no more."""
        self.send(None)

    def end(self) -> list[FrameAnswer]:
        """Ends the frames, and reads the other answers."""
        self.send(None)
        return list(self._answers)
