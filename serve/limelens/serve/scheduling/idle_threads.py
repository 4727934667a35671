"""Threads that wait for work; the one that began to wait last is woken first.

Its caches are warm. A condition wakes the one that has waited longest, so calls that come one by
one would visit all threads.
"""

from __future__ import annotations

import threading


class IdleThreads:
    """The threads that wait; the lock is held whenever a method is called.

    Args:
        lock: Guards what the threads wait for.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._waiting: list[threading.Lock] = []

    def wait(self) -> None:
        """Releases the lock until this thread is woken."""
        woken = threading.Lock()
        woken.acquire()
        self._waiting.append(woken)
        self._lock.release()
        try:
            woken.acquire()
        finally:
            self._lock.acquire()

    def notify(self, count: int) -> None:
        """Wakes up to `count` threads."""
        for _ in range(min(count, len(self._waiting))):
            self._waiting.pop().release()

    def notify_all(self) -> None:
        """Wakes every thread."""
        self.notify(len(self._waiting))
