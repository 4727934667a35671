"""Lines in the log about who did what through the page."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_log = logging.getLogger("limelens.watch.console.audit")

Endpoint = Callable[[Request], Awaitable[Response]]


def audit(request: Request, what: str, **values: Any) -> None:
    """Logs what a user did, with the address that it came from."""
    values = {"user": request.state.visitor.name or "-", "address": _address(request)} | values
    # As Python literals, so that no entered name can look like a line of its own.
    _log.info("%s: %s", what, ", ".join(f"{key} {value!r}" for key, value in values.items()))


def operators_only(endpoint: Endpoint) -> Endpoint:
    """An endpoint that refuses viewers."""

    @functools.wraps(endpoint)
    async def checked(request: Request) -> Response:
        if not request.state.visitor.may_change:
            audit(request, "refused: only operators may", path=request.url.path)
            raise HTTPException(403, "role")
        return await endpoint(request)

    return checked


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""
