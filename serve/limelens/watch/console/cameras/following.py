"""Follows how cameras change, for one page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, Final

from starlette.requests import Request

from limelens.watch.console.cameras.event_stream import SILENCE_S
from limelens.watch.console.cameras.showing import shown
from limelens.watch.console.cameras.viewers import Viewers
from limelens.watch.console.state import AppState
from limelens.watch.live import LiveCameras

_LEAST_S: Final = 0.1
"""Between two events: several cameras' news travel together."""


async def states(
    request: Request, state: AppState, live: LiveCameras, viewers: Viewers
) -> AsyncGenerator[tuple[str, Any], None]:
    """What changes, for one page.

    Yields:
        `full` if there are too many pages already, otherwise `hello` with the viewer's id, then
        `cameras` with all ids in order and the cameras that changed; without news that is empty,
        once a second. `over` ends it where the login did.
    """
    say = partial(state.pages.say, request)
    in_words = partial(state.pages.detail, request)
    with viewers.viewing() as viewer:
        if viewer is None:
            yield "full", {"most": state.settings.max_viewers}
            return
        yield "hello", {"viewer": viewer.id}
        told: dict[str, dict[str, Any]] = {}
        number = -1
        while not state.changes.is_closed:
            if not state.visitors.of(request).may_see:
                yield "over", {}
                return
            number = live.number
            cameras = {one.camera_id: shown(one, say, in_words) for one in live.all()}
            news = [one for name, one in cameras.items() if told.get(name) != one]
            yield "cameras", {"ids": list(cameras), "cameras": news}
            told = cameras
            await asyncio.sleep(_LEAST_S)
            await state.changes.later_than(number, SILENCE_S - _LEAST_S)
