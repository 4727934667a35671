"""Opens a door while its camera says `clear`; reads what `limelens camera --jsonl` prints.

    limelens camera rtsp://door/live --window 5 --jsonl | python door_controller.py --fail-secure

Whatever is not a recent `clear` or `alert` is unknown: silence, an old line, a line that cannot be
read, the end of the input. A fail-secure door is then locked, a fail-safe one is open. Replace
`Door.move` by what moves your door. docs/doors.md says what each kind does.
"""

from __future__ import annotations

import argparse
import json
import queue
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any, TextIO

CLEAR, ALERT, UNKNOWN = "clear", "alert", "unknown"


class Door:
    """Moves a door, each time only if that is new.

    Args:
        opens_on_unknown: Whether it is fail-safe.
    """

    def __init__(self, *, opens_on_unknown: bool) -> None:
        self._opens_on_unknown = opens_on_unknown
        self._state = self._why = ""

    def follow(self, state: str, why: str) -> None:
        """Does what a state asks for."""
        if state == self._state and why in ("", self._why):
            return
        self._state, self._why = state, why
        is_open = state == CLEAR or (state == UNKNOWN and self._opens_on_unknown)
        self.move(is_open, f"{state}, {why}" if why else state)

    def move(self, is_open: bool, why: str) -> None:
        """Your relay goes here; it must fall to the safe side by itself if this program dies."""
        print(f"{datetime.now():%H:%M:%S} {'open' if is_open else 'locked'}: {why}", flush=True)


def read_lines(source: TextIO, lines: queue.Queue[str | None]) -> None:
    """Passes the lines of a file on as they come, then None."""
    try:
        for line in source:
            lines.put(line)
    finally:
        lines.put(None)


def said_by(line: str, camera_id: str, limit_s: float) -> tuple[str, str] | None:
    """The state in a line and why; None if it says nothing about this camera now."""
    try:
        told: dict[str, Any] = json.loads(line)
        if camera_id and told["camera_id"] != camera_id:
            return None
        age_s = (datetime.now(UTC) - datetime.fromisoformat(told["time"])).total_seconds()
        state = told["state"]
    except (KeyError, TypeError, ValueError):
        return UNKNOWN, "a line that cannot be read"
    if abs(age_s) > limit_s:
        return None  # it waited in the pipe, or one of the clocks is wrong
    if state not in (CLEAR, ALERT):
        state = UNKNOWN
    # In a line about a frame the reason is that frame's.
    why = "" if told.get("type") == "frame" else told.get("reason", "")
    return state, str(why)


def control(lines: queue.Queue[str | None], door: Door, camera_id: str, limit_s: float) -> None:
    """Follows the camera until its lines end."""
    door.follow(UNKNOWN, "nothing was said yet")
    heard_at = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=max(0.0, heard_at + limit_s - time.monotonic()))
        except queue.Empty:
            door.follow(UNKNOWN, f"nothing was said for {limit_s:g} s")
            line = lines.get()  # however long it takes: the door is on the safe side
        if line is None:
            return
        said = said_by(line, camera_id, limit_s)
        if said is not None:
            heard_at = time.monotonic()
            door.follow(*said)


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Opens a door while its camera says clear.")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--fail-secure", action="store_true", help="lock it while nothing is known")
    kind.add_argument("--fail-safe", action="store_true", help="open it while nothing is known")
    parser.add_argument("--camera-id", default="", help="of several cameras, the one at this door")
    parser.add_argument("--heartbeat-s", type=float, default=1.0, help="as given to limelens")
    parser.add_argument("--missed", type=int, default=3, help="heartbeats that may be missing")
    options = parser.parse_args()

    def stop(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    door = Door(opens_on_unknown=options.fail_safe)
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=read_lines, args=(sys.stdin, lines), daemon=True).start()
    try:
        control(lines, door, options.camera_id, options.heartbeat_s * options.missed)
        door.follow(UNKNOWN, "the camera's program ended")
    except KeyboardInterrupt:
        door.follow(UNKNOWN, "the controller ends")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
