"""Searches for images that are costly for a server: `python -m fuzz.decode_cost --seconds 600`.

The rules, for any bytes: inspecting an image takes a few hundredths of a second; an image that
inspection calls quick is quick and takes little memory; a process reads or refuses every other one
in time. The search changes costly images further. A file that breaks a rule is left in
`--findings`; give it as an argument to see its cost. Each image is tried in a separate process.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fuzz.costly_images import MAKERS
from fuzz.images import good_images, with_checksums

MAX_DECODE_S: Final = 0.4
MAX_LOOK_S: Final = 0.05
MAX_QUICK_S: Final = 0.2
"""For images estimated at 0.04: a machine may be slow and its caches cold."""
MAX_SLOW_S: Final = 0.5
MAX_MEMORY_MB: Final = 300
_PER_BYTE_S: Final = 30e-9
_PER_PIXEL_S: Final = 15e-9
_KEPT: Final = 12
_MAX_BYTES: Final = 8_000_000


@dataclass(frozen=True)
class Cost:
    """The cost of one image.

    Args:
        look_s: CPU for inspecting it.
        is_quick: Whether the inspection called it quick.
        read_s: CPU for reading or refusing it.
        memory_mb: Growth of the process.
        was_read: Whether it was an image.
        allowed_s: CPU that it may use.
    """

    look_s: float
    is_quick: bool
    read_s: float
    memory_mb: float
    was_read: bool
    allowed_s: float

    @property
    def broken(self) -> str:
        """The rule that it breaks; empty if none."""
        if self.look_s > MAX_LOOK_S:
            return f"looking took {self.look_s:.3f} s"
        if self.read_s > self.allowed_s:
            return f"reading took {self.read_s:.3f} s; allowed are {self.allowed_s:.3f}"
        if self.memory_mb > MAX_MEMORY_MB:
            return f"reading took {self.memory_mb:.0f} MB"
        return ""

    @property
    def badness(self) -> float:
        """How close it comes to breaking a rule; 1 breaks it."""
        shares = self.look_s / MAX_LOOK_S, self.read_s / self.allowed_s
        return max(*shares, self.memory_mb / MAX_MEMORY_MB)


def cost_of(data: bytes) -> Cost:
    """Tries an image, each step in a separate process.

    Raises:
        RuntimeError: A process ended in a forbidden way.
    """
    from limelens.serve.errors import InvalidImageError
    from limelens.serve.image import ResizeRule, read_fitted
    from limelens.serve.image.decoder_process import limit_memory, limit_time
    from limelens.serve.image.encoded import EncodedImage
    from limelens.serve.image.formats import inspect
    from limelens.serve.image.limits import allowed_s

    def nothing() -> bool:
        return True

    def look() -> bool:
        return EncodedImage("image", data).is_quick

    def read() -> bool:
        try:
            if not quick:
                limit_memory()
                limit_time(MAX_DECODE_S)
                source = inspect(data)
                limit_time(allowed_s(source, len(data)))
            read_fitted(data, ResizeRule(224, 224))
        except InvalidImageError:
            return False
        return True

    _trim()  # reuse of memory that this process freed would not be measured
    base = _run(nothing)
    look_run = _run(look)
    quick = look_run.answer
    read_run = _run(read)
    allowed = MAX_QUICK_S
    if not quick:
        allowed = MAX_SLOW_S + _PER_BYTE_S * len(data)
        try:
            source = inspect(data)
            if source.is_plain:
                allowed += _PER_PIXEL_S * source.height * source.width
        except InvalidImageError:
            pass
    return Cost(
        look_run.seconds - base.seconds,
        quick,
        read_run.seconds - base.seconds,
        read_run.memory_mb - base.memory_mb,
        read_run.answer,
        allowed,
    )


def _trim() -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True)
class _Run:
    answer: bool
    seconds: float
    memory_mb: float


def _run(work: Callable[[], bool]) -> _Run:
    """Runs work in a separate process; returns its result and its cost."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if work() else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    is_over_time = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
    if not is_over_time and (os.WIFSIGNALED(status) or os.WEXITSTATUS(status) > 1):
        raise RuntimeError(f"the process that tried an image ended with {status}")
    return _Run(status == 0, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def images(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """One of each kind of costly image, repeatedly."""
    while True:
        for name, make in MAKERS.items():
            yield name, make(rng)


def changed(data: bytes, rng: random.Random) -> bytes:
    """An image with some bytes changed, removed or repeated."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found) + 1)
        end = min(len(found), at + rng.choice((1, 2, 4, 16, 300)))
        way = rng.randrange(4)
        if way == 0:
            found[at:end] = rng.randbytes(end - at)
        elif way == 1:
            del found[at:end]
        elif way == 2:
            most = max(1, 2_000_000 // max(1, end - at))
            found[at:at] = found[at:end] * min(rng.choice((1, 100, 100_000)), most)
        elif at < len(found):
            found[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    return with_checksums(bytes(found[:_MAX_BYTES]))


def search(
    seconds: float, seed: int, findings: Path, *, most: int | None = None
) -> dict[str, Cost]:
    """Looks for costly images, and prints the worst of each kind as they are found.

    Args:
        seconds: How long.
        seed: The same seed tries the same images if their costs are the same.
        findings: Folder for files that break a rule.
        most: Most images to try; None is as many as there is time for.

    Returns:
        The worst of each kind.
    """
    rng = random.Random(seed)
    ends_at = time.monotonic() + seconds
    worst: dict[str, Cost] = {}
    kept: list[tuple[float, str, bytes]] = [
        (0.0, name.rpartition(".")[2], data) for name, data in good_images().items()
    ]
    fresh = images(rng)
    tried = 0
    while time.monotonic() < ends_at and (most is None or tried < most):
        if rng.random() < 0.5:
            name, data = next(fresh)
        else:
            _, name, data = rng.choice(kept)
            name, data = f"changed {name.removeprefix('changed ')}", changed(data, rng)
        tried += 1
        cost = cost_of(data)
        if cost.broken:
            cost = min((cost_of(data) for _ in range(2)), key=lambda one: one.badness)
        kept.append((cost.badness, name, data))
        kept.sort(key=lambda one: -one[0])
        del kept[_KEPT * len(MAKERS) :]
        if name not in worst or cost.badness > worst[name].badness:
            worst[name] = cost
            print(f"{name}, {len(data):,} bytes: {_words(cost)}", flush=True)
        if cost.broken:
            findings.mkdir(parents=True, exist_ok=True)
            path = findings / f"{name.replace(' ', '_')}_{zlib.crc32(data):08x}"
            path.write_bytes(data)
            print(f"{path}: {cost.broken}", flush=True)
    print(f"{tried:,} images were tried", flush=True)
    return worst


def main(arguments: Sequence[str] | None = None) -> int:
    """Tries the given files once, or searches for a while; exit code 1 if a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.decode_cost", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="try these once, and do not search")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz/costly"))
    chosen = parser.parse_args(arguments)
    if chosen.files:
        costs = {str(path): cost_of(path.read_bytes()) for path in chosen.files}
        for name, cost in costs.items():
            print(f"{name}: {_words(cost)}")
    else:
        costs = search(chosen.seconds, chosen.seed, chosen.findings)
    return int(any(cost.broken for cost in costs.values()))


def _words(cost: Cost) -> str:
    kind = "quick" if cost.is_quick else "slow"
    end = "read" if cost.was_read else "refused"
    return (
        f"{kind}, {end}; looking {1000 * cost.look_s:.0f} ms, reading {1000 * cost.read_s:.0f} of "
        f"{1000 * cost.allowed_s:.0f} ms, {cost.memory_mb:.0f} MB"
        + (f"; BROKEN: {cost.broken}" if cost.broken else "")
    )


if __name__ == "__main__":
    sys.exit(main())
