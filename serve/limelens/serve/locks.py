"""Locks of the operating system on open files: whoever holds one is alive.

A lock is gone when its process has ended, however that came. On another machine, after another
start, or by another mount, a free lock may say nothing. This module does not know what is locked.
"""

from __future__ import annotations

from pathlib import Path


def lock(number: int, *, wait: bool) -> bool:
    """Takes the lock of an open file, until all descriptors of its opening are closed.

    Returns:
        Whether it was taken; false if another process, or another opening of the file, has it.

    Raises:
        OSError: There are no locks here.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        raise OSError from None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def here(device: int) -> bytes:
    """This start of this machine, and a mount by the number of its device; empty if unknown."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return b""
    return f"{start} {device}".encode()
