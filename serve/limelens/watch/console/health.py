"""The page about the machinery: what is slow, full, expiring or broken."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limelens.serve.about import package_version
from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.console.details import Detail, InWords, english
from limelens.watch.console.findings import ask_server, read_certificate, read_disk
from limelens.watch.console.language import Say
from limelens.watch.console.state import AppState

_GIB: Final = 1 << 30
_MIB: Final = 1 << 20


def routes(state: AppState) -> list[Route]:
    """The page, and the part of it that changes."""

    async def health(request: Request) -> Response:
        return state.pages.render(request, "health.html", **await found(request))

    async def now(request: Request) -> Response:
        return state.pages.render(request, "health_now.html", **await found(request))

    async def found(request: Request) -> dict[str, Any]:
        values = await run_in_threadpool(_look, state)
        say = partial(state.pages.say, request)
        in_words = partial(state.pages.detail, request)
        return values | {"problems": _problems(state, values, say, in_words)}

    return [Route("/health", health), Route("/health/now", now)]


def _look(state: AppState) -> dict[str, Any]:
    live = () if state.live is None else [one.current for one in state.live.all()]
    record = state.record
    return {
        "cameras": live,
        "timings": state.timings,
        "certificate": read_certificate(state.settings.tls_cert),
        "is_plain": state.settings.tls_cert is None,
        "disk": None if record is None else read_disk(record.folder, lambda: record.num_bytes),
        "server": None if state.client is None else ask_server(state.client),
        "told": tuple(state.problems()),
        "limelens": package_version(),
        "in_words": _in_words,
    }


def _problems(
    state: AppState, values: dict[str, Any], say: Say, in_words: InWords
) -> list[str | Detail]:
    """Everything that somebody should look at, the worst first."""
    problems: list[str | Detail] = [
        say(
            "health.camera_problem",
            camera=one.camera_id,
            why=in_words(one.detail) if one.detail else say(f"reasons.{one.reason}"),
        )
        for one in values["cameras"]
        if one.state is CameraState.UNKNOWN and one.reason is not None
    ]
    problems += [english(one) for one in values["told"]]
    server, disk, certificate = values["server"], values["disk"], values["certificate"]
    if server is not None and server.problem:
        problems.append(say("health.server_problem", why=english(server.problem)))
    if disk is not None and disk.is_nearly_full:
        problems.append(say("health.disk_problem", free=_in_words(disk.free)))
    if certificate is not None and certificate.ends_soon:
        problems.append(say("health.certificate_problem", count=certificate.num_days))
    if state.visitors.users is not None and state.visitors.users.problem:
        problems.append(english(state.visitors.users.problem))
    return problems


def _in_words(num_bytes: int) -> str:
    if num_bytes >= 10 * _MIB:
        return f"{num_bytes / _GIB:.2f} GiB" if num_bytes >= _GIB else f"{num_bytes / _MIB:.0f} MiB"
    return f"{num_bytes / _MIB:.1f} MiB"
