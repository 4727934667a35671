"""The page about the machinery: what is slow, full, expiring or broken."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limelens.watch.console.state import AppState


def routes(state: AppState) -> list[Route]:
    """The page."""

    async def health(request: Request) -> Response:
        return state.pages.render(request, "health.html", problems=tuple(state.problems()))

    return [Route("/health", health)]
