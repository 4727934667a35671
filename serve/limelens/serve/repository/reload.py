"""When to look for new versions: every few seconds, or when asked.

It looks by itself in a thread that steps back behind those who answer. Looking costs a few file
attributes, works on every kind of mount, and sees what was written before it was there to notice;
notifications of the file system do neither. It knows when files were left alone, and nothing of
what is in them.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from limelens.serve.errors import LimelensError, UnavailableError
from limelens.serve.repository.model_repository import Repository, Stamp

Reload = Literal["watch", "request", "off"]
"""`watch` looks every few seconds and when asked, `request` when asked, `off` never."""

_NICENESS: Final = 10
_AGAIN_S: Final = 30.0
"""What was no fault of the file is tried again after so long."""
_log = logging.getLogger(__name__)


class Quiet:
    """Tells which files have been left alone for a while.

    Args:
        seconds: How long a file must look the same before it is judged.
        now: A clock that only goes forward, in seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._seen: dict[Path, tuple[Stamp, float]] = {}
        self._asked: set[Path] = set()
        self.pending = False

    def begin(self) -> None:
        """A look begins."""
        self._asked.clear()
        self.pending = False

    def __call__(self, path: Path, stamp: Stamp) -> bool:
        """Whether a file looks as it did a while ago; when it said so, not again at once."""
        now = self._now()
        last, since = self._seen.get(path, (None, now))
        if last != stamp:
            self._seen[path] = stamp, now
            since = now
        self._asked.add(path)
        is_quiet = now - since >= self._seconds
        self.pending |= not is_quiet
        if is_quiet:
            # Asked for again as it is, it could not be judged for want of memory, say.
            self._seen[path] = stamp, now + _AGAIN_S - self._seconds
        return is_quiet

    def end(self) -> None:
        """A look ended: what it did not ask for is forgotten."""
        self._seen = {path: one for path, one in self._seen.items() if path in self._asked}


def watcher_for(repository: Repository, reload: Reload, reload_s: float) -> Watcher | None:
    """Who looks after a repository, not yet begun; None where nobody does.

    Args:
        repository: What is looked after.
        reload: When.
        reload_s: How often where it looks by itself, in seconds; 0 is only when asked.
    """
    if reload == "off":
        return None
    every_s = reload_s if reload == "watch" and reload_s else None
    return Watcher(repository, every_s=every_s, quiet_s=min(1.0, every_s or 1.0))


class Watcher:
    """The thread that looks for new versions.

    Args:
        repository: What is looked after.
        every_s: How often it looks by itself; None is only when asked.
        quiet_s: How long a file must have been left alone before it is judged.
    """

    def __init__(
        self, repository: Repository, *, every_s: float | None, quiet_s: float = 1.0
    ) -> None:
        self._repository = repository
        self._every_s = every_s
        self._quiet_s = quiet_s
        self._quiet = Quiet(quiet_s)
        self._judge = repository.judge()
        self._wake = threading.Event()
        self._stopped = False
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="limelens-models", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def look_now(self) -> None:
        """Asks for a look; what is not quiet yet is looked at until it is."""
        self._wake.set()

    def look_at_once(self) -> None:
        """Looks in the caller's thread and takes files as they are, once they are written."""
        self._repository.refresh(judge=self._judge)

    def stop(self) -> None:
        """Ends the thread; a file that is being judged is left."""
        self._stopped = True
        self._judge.stop()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def kill(self) -> None:
        """Ends the process that judges, for a server that leaves at once; waits for nothing."""
        self._judge.kill()

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere it would be the process's
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while not self._stopped:
            self._wake.wait(self._quiet_s if self._quiet.pending else self._every_s)
            self._wake.clear()
            if not self._stopped:
                self._look()

    def _look(self) -> None:
        self._quiet.begin()
        try:
            self._repository.refresh(judge=self._judge, is_quiet=self._quiet)
        except UnavailableError:
            return
        # Whatever is wrong with the folder, what is loaded serves on. Told once, not every time.
        except Exception as error:
            trouble = f"{type(error).__name__}: {error}"
            if trouble != self._trouble:
                # What is known says all in a sentence.
                unknown = None if isinstance(error, LimelensError) else error
                text = "the models could not be looked at again: %s"
                _log.error(text, error, exc_info=unknown)
            self._trouble = trouble
        else:
            self._trouble = ""
            self._quiet.end()
