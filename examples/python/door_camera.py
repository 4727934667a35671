"""Watches a door: every image that a camera puts into a folder is a frame of one stream.

Many cameras write an image into a folder every second (by FTP, for one). The newest is classified,
the decision is smoothed, and each change of it is printed. If the server goes down, the program
waits for it.

    python door_camera.py 127.0.0.1:8500 /var/cameras/door
"""

from __future__ import annotations

import asyncio
import datetime
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from limelens.serve import AsyncClient, Frame, LimelensError


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


async def watch(address: str, folder: Path) -> None:
    """Prints the camera's decision whenever it changes."""
    async with AsyncClient(address) as client:
        answers = client.stream(
            new_images(folder), camera_id=folder.name, smoothing=(3, 2), reconnect=True
        )
        async for answer in answers:
            if answer.changed:
                word = "ALERT" if answer.alert else "ok"
                label = answer.smoothed_label or "unknown"
                print(f"{answer.capture_time:%H:%M:%S} {word}: {label}", flush=True)


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
