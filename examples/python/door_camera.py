"""Watches a door: every image that a camera puts into a folder is a frame of one stream.

Many cameras write an image into a folder every second (by FTP, for one). The newest is classified,
the decision is smoothed, and each change of the state is printed: alert, clear, or unknown and why.
It is unknown before the first decision, when no image comes any more, and while the server is down,
for which the program waits. Only `clear` may open a door.

    python door_camera.py 127.0.0.1:8500 /var/cameras/door
"""

from __future__ import annotations

import asyncio
import datetime
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from limelens.serve import AsyncClient, Frame, LimelensError
from limelens.serve.tools.camera import StateKeeper, StateReport

MAX_AGE_S = 3.0
"""How long a decision holds after its image was taken: a few images."""


async def new_images(folder: Path, look_every_s: float = 0.2) -> AsyncIterator[Frame]:
    """The folder's images by name, later ones too, until one is named `end`."""
    last = ""
    number = 0
    while True:
        names = sorted(one.name for one in folder.glob("*.jpg") if one.name > last)
        for last in names:
            path = folder / last
            taken = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
            yield Frame(number, path, taken)
            number += 1
        if (folder / "end").exists() and not names:
            return
        await asyncio.sleep(look_every_s)


class Told:
    """Prints a state when it is new."""

    def __init__(self, keeper: StateKeeper) -> None:
        self._keeper = keeper
        self._last: StateReport | None = None

    def look(self) -> None:
        """Looks at the state now."""
        now, last = self._keeper.report(time.monotonic()), self._last
        if last is None or now.is_news_after(last):
            why = now.label if now.reason is None else now.reason.in_words
            print(f"{datetime.datetime.now():%H:%M:%S} {now.state.upper()}: {why}", flush=True)
        self._last = now

    async def look_on(self, every_s: float = 0.2) -> None:
        """Looks again and again: a decision expires without any answer."""
        while True:
            self.look()
            await asyncio.sleep(every_s)


async def watch(address: str, folder: Path) -> None:
    """Prints the door's state whenever it changes."""
    keeper = StateKeeper(max_decision_age_s=MAX_AGE_S)
    told = Told(keeper)
    looking = asyncio.create_task(told.look_on())
    try:
        async with AsyncClient(address) as client:
            answers = client.stream(
                new_images(folder),
                camera_id=folder.name,
                smoothing=(3, 2),
                max_decision_age_s=MAX_AGE_S,
                reconnect=True,
            )
            async for answer in answers:
                at = time.monotonic()
                if answer.capture_time is not None:
                    age = datetime.datetime.now(datetime.UTC) - answer.capture_time
                    at -= age.total_seconds()
                keeper.answered(answer, at)
                told.look()
    finally:
        looking.cancel()
        print(f"{datetime.datetime.now():%H:%M:%S} UNKNOWN: nobody watches any more", flush=True)


def main() -> int:
    """Reads the command line."""
    if len(sys.argv) != 3:
        print("usage: python door_camera.py HOST:PORT FOLDER", file=sys.stderr)
        return 2
    try:
        asyncio.run(watch(sys.argv[1], Path(sys.argv[2])))
    except KeyboardInterrupt:
        return 0
    except (LimelensError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
