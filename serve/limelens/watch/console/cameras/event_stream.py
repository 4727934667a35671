"""Server-sent events to a browser that may read slowly, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

SILENCE_S: Final = 1.0
"""At least this often something is sent, so that the page knows that it is connected."""
_STUCK_S: Final = 10.0
"""A browser that takes nothing for so long is let go."""


class EventStream(Response):
    """Sends events until they end or the browser is gone.

    The next event is made once the browser has taken the last one: who reads slowly gets fewer of
    them, and nothing piles up.

    Args:
        events: Names and values; closed in any case.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[tuple[str, Any], None]) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them."""
        del scope
        left = asyncio.ensure_future(_until_left(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for name, value in self._events:
                text = f"event: {name}\ndata: {json.dumps(value)}\n\n"
                body = {"type": "http.response.body", "body": text.encode(), "more_body": True}
                await asyncio.wait_for(send(body), _STUCK_S)
                if left.done():
                    return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            return
        finally:
            left.cancel()
            await self._events.aclose()
            with contextlib.suppress(asyncio.CancelledError):
                await left


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
