"""Puts the pages together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from limelens.watch.console import cameras, events, health, why
from limelens.watch.console.access import login
from limelens.watch.console.protection import Protection
from limelens.watch.console.state import AppState
from limelens.watch.console.trying import pages as trying

STATIC: Final = Path(__file__).parent / "static"
_BY_STATUS: Final = {404: "missing", 405: "method", 408: "slow", 413: "too_large", 403: "forbidden"}


def navigation(live: object, record: object, client: object) -> dict[str, str]:
    """The paths of the pages that there are, by the keys of their names in `[nav]`."""
    found = {
        "cameras": "/cameras" if live is not None else "",
        "events": "/events" if record is not None else "",
        "try": "/try" if client is not None else "",
        "health": "/health",
    }
    return {key: path for key, path in found.items() if path}


def application(
    state: AppState, hosts: Collection[str], started: Callable[[], None] = lambda: None
) -> ASGIApp:
    """The application, protected.

    Args:
        state: What the pages share.
        hosts: As of `Protection`.
        started: Called once it runs.
    """

    async def home(_: Request) -> Response:
        return RedirectResponse(next(iter(state.pages.navigation.values())), 303)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = state.pages.sentences.keys("en")
        key = error.detail if f"errors.{error.detail}" in known else None
        response = state.pages.error(
            request,
            error.status_code,
            key or _BY_STATUS.get(error.status_code, "failed"),
            most=state.settings.max_upload_bytes,
        )
        response.headers.update(error.headers or {})
        return response

    async def failed(request: Request, _: Exception) -> Response:
        return state.pages.error(request, 500, "failed")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(state.timings.follow())
        started()
        yield
        looking.cancel()

    routes: list[BaseRoute] = [
        Route("/", home),
        Mount("/static", StaticFiles(directory=STATIC)),
        *login.routes(state),
        *cameras.routes(state),
        *events.routes(state),
        *why.routes(state),
        *trying.routes(state),
        *health.routes(state),
    ]
    inner = Starlette(
        routes=routes,
        exception_handlers={HTTPException: refused, Exception: failed},
        lifespan=lifespan,
    )
    return Protection(
        inner, state.visitors, state.pages, hosts, state.settings.max_upload_bytes + (1 << 16)
    )
