"""What the pages share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limelens.watch.console.access.visitors import Visitors
from limelens.watch.console.changes import Changes
from limelens.watch.console.rendering import Pages
from limelens.watch.console.settings import ConsoleSettings
from limelens.watch.console.timings import Timings
from limelens.watch.live import LiveCameras

if TYPE_CHECKING:
    from limelens.serve.client import Client
    from limelens.watch.record import Record


@dataclass(frozen=True)
class AppState:
    """Given to `routes` of every page's module.

    Args:
        settings: The console's.
        live: The cameras; None if none are watched, and there is no such page.
        record: The record of events; None if nothing is recorded.
        client: Opens a client of the server, for a single use; None without a server.
        problems: What is wrong with sinks and the record now, for people.
        changes: Tells that a camera changed, and that the console closes.
        timings: How long frames took lately.
        visitors: Who requests come from.
        pages: Renders templates.
    """

    settings: ConsoleSettings
    live: LiveCameras | None
    record: Record | None
    client: Callable[[], Client] | None
    problems: Callable[[], Sequence[str]]
    changes: Changes
    timings: Timings
    visitors: Visitors
    pages: Pages
