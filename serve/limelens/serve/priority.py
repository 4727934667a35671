"""Lower priority for background work: it runs when requests leave the processor free."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Final

_NICENESS: Final = 10  # at 19 it would get no time on a busy machine


def lower_thread_priority(niceness: int = _NICENESS) -> None:
    """Lowers the priority of this thread, and of threads that it starts, below all others."""
    if sys.platform == "linux":  # elsewhere it would be the priority of the process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def lower_process_priority() -> None:
    """Lowers this process's priority; if memory runs out, the system ends it first."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
