"""When to scan for new versions: every few seconds, or on request.

A thread of lower priority scans. A scan reads a few file attributes, works on every kind of mount,
and finds what was written before the server started; notifications of the file system do neither.
This module knows when files were last changed, and nothing of their contents.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from limelens.serve.errors import LimelensError, UnavailableError
from limelens.serve.priority import lower_thread_priority
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.model_version import Stamp

Reload = Literal["watch", "request", "off"]
"""`watch` scans every few seconds and on request, `request` on request only, `off` never."""

_AGAIN_S: Final = 30.0
"""A load that failed, but not because of the file, is tried again after so long."""
_log = logging.getLogger(__name__)


class Quiet:
    """Tells which files have stayed the same for some seconds."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._seen: dict[Path, tuple[Stamp, float]] = {}
        self._asked: set[Path] = set()
        self.pending = False

    def begin(self) -> None:
        """Begins a scan."""
        self._asked.clear()
        self.pending = False

    def __call__(self, path: Path, stamp: Stamp) -> bool:
        """Whether a file has not changed for a while; after a yes, no for a time."""
        now = self._now()
        last, since = self._seen.get(path, (None, now))
        if last != stamp:
            self._seen[path] = stamp, now
            since = now
        self._asked.add(path)
        is_quiet = now - since >= self._seconds
        self.pending |= not is_quiet
        if is_quiet:
            # If the same file is asked for again, loading failed (no memory, say): not at once.
            self._seen[path] = stamp, now + _AGAIN_S - self._seconds
        return is_quiet

    def end(self) -> None:
        """Ends a scan; forgets the files that it did not check."""
        self._seen = {path: one for path, one in self._seen.items() if path in self._asked}


def watcher_for(repository: Repository, reload: Reload, reload_s: float) -> Watcher | None:
    """A watcher that is not started yet; None if `reload` is `off`.

    `reload_s` are the seconds between scans of `watch`; 0 scans on request only.
    """
    if reload == "off":
        return None
    return Watcher(repository, reload_s if reload == "watch" and reload_s else None)


class Watcher:
    """The thread that scans for new versions, every few seconds or on request only.

    Files must have stayed the same for that long, but at most a second, before they are loaded.
    """

    def __init__(self, repository: Repository, every_s: float | None) -> None:
        self._repository = repository
        self._every_s = every_s
        self._quiet_s = min(1.0, every_s or 1.0)
        self._quiet = Quiet(self._quiet_s)
        self._validator = repository.validator()
        self._wake = threading.Event()
        self._waiting: list[Callable[[], object]] = []
        self._stopped = False
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name="limelens-models", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def request_scan(self, done: Callable[[], object] = lambda: None) -> None:
        """Has the thread scan soon, and again until every file is quiet; then it calls `done`."""
        self._waiting.append(done)
        self._wake.set()

    def scan(self) -> None:
        """Scans in the caller's thread, and loads files that have only just been written too."""
        self._repository.refresh(validator=self._validator)

    def stop(self) -> None:
        """Ends the thread; a file that is being validated is left."""
        self._stopped = True
        self._validator.stop()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def kill(self) -> None:
        """Ends the process that validates, for a server that exits at once; waits for nothing."""
        self._validator.kill()

    def _run(self) -> None:
        lower_thread_priority()
        while not self._stopped:
            self._wake.wait(self._quiet_s if self._quiet.pending else self._every_s)
            self._wake.clear()
            if self._stopped:
                return
            asked, self._waiting = self._waiting, []
            self._scan_quiet_files()
            if self._quiet.pending:
                self._waiting = asked + self._waiting
            else:
                for done in asked:
                    done()

    def _scan_quiet_files(self) -> None:
        self._quiet.begin()
        try:
            self._repository.refresh(validator=self._validator, is_quiet=self._quiet)
        except UnavailableError:
            return
        # Whatever is wrong with the folder, loaded versions serve on. Logged once.
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            if message != self._last_error:
                # An error of ours needs no traceback.
                unexpected = None if isinstance(error, LimelensError) else error
                text = "the models could not be scanned: %s"
                _log.error(text, error, exc_info=unexpected)
            self._last_error = message
        else:
            self._last_error = ""
            self._quiet.end()
