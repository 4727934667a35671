"""How long after a change its state was said, what was said for no reason, and what it cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.door.filming import Change, Shown, filming, films
from benchmarks.door.people import Person
from benchmarks.door.watching import Said, watching
from limelens.serve.tools.load import Watch

_LAST_S: Final = 2.0
"""How long the state of the last change is waited for."""


@dataclass(frozen=True)
class Load:
    """The cameras of one row.

    Args:
        num_cameras: How many.
        fps: Frames a second of each.
        seconds: How long.
        stay_s: The least and the most seconds that somebody stays.
        window: Frames of the window.
        required: How many of them must agree.
        required_to_alert: How many must agree on an alert.
        num_explaining: Of how many cameras each change is explained.
    """

    num_cameras: int
    fps: float
    seconds: float
    stay_s: tuple[float, float]
    window: int = 1
    required: int = 1
    required_to_alert: int = 1
    num_explaining: int = 0

    @property
    def rules(self) -> str:
        """As lines of `[defaults]`."""
        return (
            f"window = {self.window}\nrequired = {self.required}\n"
            f"required_to_alert = {self.required_to_alert}"
        )


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Args:
        alert_s: From each change to the alert that it brought.
        clear_s: From each change to the clearance that it brought.
        from_sent_s: From sending the first frame of each change to its state.
        ages_s: Of each frame, from when it was read to when its answer was told.
        num_changes: Changes that were shown.
        num_missed: Those of which nothing was said.
        num_false: States other than unknown that no change brought.
        num_unknown: States unknown after the first decision.
        num_sent: Frames that the cameras sent.
        num_answered: Frames that were answered.
        cpu_s: CPU time by process.
    """

    alert_s: list[float]
    clear_s: list[float]
    from_sent_s: list[float]
    ages_s: list[float]
    num_changes: int
    num_missed: int
    num_false: int
    num_unknown: int
    num_sent: int
    num_answered: int
    cpu_s: dict[str, float] = field(default_factory=dict)


def measure(load: Load, models: Path, people: dict[str, list[Person]], num_threads: int) -> Outcome:
    """Shows the films of a row to `limelens watch`."""
    made = films(people, load.num_cameras, fps=load.fps, seconds=load.seconds, stay_s=load.stay_s)
    with filming(made) as cameras:
        sources = [cameras.url(number) for number in range(load.num_cameras)]
        with watching(
            models, sources, rules=load.rules, num_explaining=load.num_explaining,
            num_threads=num_threads,
        ) as running:  # fmt: skip
            begins_at = running.said.begins_at = time.time() + 1.0
            cameras.begin(begins_at)
            watches = {
                "cameras": Watch(cameras.pid),
                "watch": Watch(running.watch_pid),
                "server": Watch(running.server_pid),
            }
            time.sleep(max(0.0, begins_at - time.time()))
            for one in watches.values():
                one.begin()
            time.sleep(load.seconds)
            for one in watches.values():
                one.end()
            # Counted together: what is on its way then is no drop.
            num_answered = sum(running.said.num_frames.values())
            shown = cameras.shown()
            time.sleep(_LAST_S)
            cpu_s = {name: one.usage.cpu_s for name, one in watches.items()}
            return outcome(load, shown, running.said, begins_at, num_answered, cpu_s)


def outcome(
    load: Load, shown: Shown, said: Said, begins_at: float, num_answered: int,
    cpu_s: dict[str, float],
) -> Outcome:  # fmt: skip
    """Finds the state of each change; others came for no reason."""
    ends_at = begins_at + load.seconds
    states = [
        (int(camera), at, state, label)
        for camera, at, state, label in said.states
        if begins_at <= at < ends_at + _LAST_S
    ]
    found: dict[str, list[float]] = {"alert": [], "clear": []}
    from_sent_s = []
    num_missed = num_matched = 0
    for change, until in _with_ends(shown.changes):
        hit = next(
            (one for one in states if one[0] == change.camera and change.at <= one[1] < until
             and one[3] == change.label),
            None,
        )  # fmt: skip
        if hit is None:
            num_missed += 1
            continue
        num_matched += 1
        found[hit[2]].append(hit[1] - change.at)
        from_sent_s.append(hit[1] - change.sent_at)
    decided = [one for one in states if one[2] != "unknown"]
    return Outcome(
        alert_s=found["alert"],
        clear_s=found["clear"],
        from_sent_s=from_sent_s,
        ages_s=said.ages_s,
        num_changes=len(shown.changes),
        num_missed=num_missed,
        num_false=len(decided) - num_matched,
        num_unknown=len(states) - len(decided),
        num_sent=sum(shown.num_frames.values()),
        num_answered=num_answered,
        cpu_s=cpu_s,
    )


def _with_ends(changes: list[Change]) -> list[tuple[Change, float]]:
    """Each change with the time of the camera's next one."""
    found = []
    for change in changes:
        later = [one.at for one in changes if one.camera == change.camera and one.at > change.at]
        found.append((change, min(later, default=float("inf"))))
    return found


def percentile_ms(seconds: list[float], share: float) -> float:
    """A percentile in milliseconds; NaN of nothing."""
    return 1000 * float(np.percentile(seconds, share)) if seconds else float("nan")
