"""Stands before every page: names, forged requests, logins, and what a browser may load.

It wraps the whole application, so that no page can be added without it.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from limelens.watch.console.access.visitors import Visitors
from limelens.watch.console.rendering import Pages

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # With no-referrer, browsers would send `Origin: null` with their own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    "cache-control": "no-store",
}
_TLS_HEADERS: Final = {"strict-transport-security": "max-age=31536000"}
_PUBLIC: Final = ("/login", "/preferences", "/session")
_STATIC: Final = "/static/"
_FORM: Final = "application/x-www-form-urlencoded"
_MAX_FORM_BYTES: Final = 64 * 1024
_PATIENCE_S: Final = 15.0
"""For each part of a body."""
_WHOLE_S: Final = 120.0
"""For a body."""


class Protection:
    """The application, protected.

    Args:
        app: The application.
        visitors: Tells who a request comes from.
        pages: Renders refusals.
        hosts: Names by which browsers may ask for the page, beside addresses and localhost.
        max_body_bytes: Of a request.
    """

    def __init__(
        self,
        app: ASGIApp,
        visitors: Visitors,
        pages: Pages,
        hosts: Collection[str],
        max_body_bytes: int,
    ) -> None:
        self._app = app
        self._visitors = visitors
        self._pages = pages
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        scope.setdefault("state", {})
        is_known_host = self._is_known_host(request.headers.get("host", ""))
        if is_known_host:
            request.state.visitor = self._visitors.of(request)

        async def protected_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(request, MutableHeaders(scope=message), is_known_host)
            await send(message)

        if not is_known_host:
            # A name that leads here only because somebody made it do so (DNS rebinding) must not
            # reach anything, not even a login.
            text = self._pages.say(request, "errors.host")
            refused: Response | None = PlainTextResponse(f"{text}\n", 421)
        elif {"content-length", "transfer-encoding"} <= {*request.headers}:
            # A proxy in front may see another end of the request, and another one behind it.
            refused = PlainTextResponse("", 400, {"connection": "close"})
        elif request.method not in ("GET", "HEAD", "POST"):
            refused = self._pages.error(request, 405, "method")
        elif request.method == "POST":
            refused, receive = await self._check_post(request, receive)
        else:
            refused = self._check_login(request)
        await (refused or self._app)(scope, receive, protected_send)

    def _is_known_host(self, host: str) -> bool:
        name = _name_in(f"//{host}") if not set(host) & set("/@?#\\ ") else None
        if name is None:
            return False
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            parent = name.partition(".")[2]
            return name == "localhost" or not self._hosts.isdisjoint({name, f"*.{parent}"})
        return True  # addresses cannot be rebound

    def _check_login(self, request: Request) -> Response | None:
        path = request.url.path
        if request.state.visitor.may_see or path in _PUBLIC or path.startswith(_STATIC):
            return None
        if "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse(self._pages.say(request, "errors.login") + "\n", 401)
        then = path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(then, safe='')}", 303)

    async def _check_post(
        self, request: Request, receive: Receive
    ) -> tuple[Response | None, Receive]:
        origin = request.headers.get("origin")
        host = request.headers.get("host")
        if origin is not None and origin.partition("://")[2] != host:
            return self._pages.error(request, 403, "forged"), receive
        is_form = request.headers.get("content-type", "").partition(";")[0].strip() == _FORM
        most = _MAX_FORM_BYTES if is_form else self._max_body_bytes
        try:
            length = int(request.headers.get("content-length", "0"))
        except ValueError:
            length = most + 1
        if length > most:
            return self._pages.error(request, 413, "too_large", most=most), receive
        receive = _limited(receive, most)
        shown = request.headers.get("x-csrf-token", "")
        if is_form and not shown:
            try:
                body = await _read(receive)
            except HTTPException as error:
                key = "slow" if error.status_code == 408 else "too_large"
                return self._pages.error(request, error.status_code, key, most=most), receive
            shown = parse_qs(body.decode("latin-1")).get("csrf", [""])[0]
            receive = _replayed(body, receive)
        if not hmac.compare_digest(shown.encode(), request.state.visitor.csrf.encode()):
            return self._pages.error(request, 403, "stale"), receive
        return self._check_login(request), receive

    def _add_headers(self, request: Request, headers: MutableHeaders, has_visitor: bool) -> None:
        for name, value in _HEADERS.items():
            headers[name] = value
        if request.url.path.startswith(_STATIC):
            headers["cache-control"] = "no-cache"
        is_tls = request.url.scheme == "https"
        if is_tls:
            for name, value in _TLS_HEADERS.items():
                headers[name] = value
        is_page = headers.get("content-type", "").startswith("text/html")
        if has_visitor and is_page and request.state.visitor.is_new:
            name = self._visitors.cookie_name(request, "visit")
            secure = "; Secure" if is_tls else ""
            # Lax: a link from another page must not replace the token of open pages.
            headers.append(
                "set-cookie",
                f"{name}={request.state.visitor.visit}; Path=/; HttpOnly; SameSite=Lax{secure}",
            )


def _name_in(url: str) -> str | None:
    """The host that a URL names; None without one that can be read."""
    try:
        return urlsplit(url).hostname
    except ValueError:  # such as brackets around no address
        return None


def _limited(receive: Receive, most: int) -> Receive:
    """The same messages, until the body is longer or slower than it may be."""
    received, is_whole = 0, False
    ends_at = time.monotonic() + _WHOLE_S

    async def limited() -> Message:
        nonlocal received, is_whole
        if is_whole:
            return await receive()  # the end of the connection, whenever it comes
        try:
            message = await asyncio.wait_for(
                receive(), min(_PATIENCE_S, ends_at - time.monotonic())
            )
        except TimeoutError:
            raise HTTPException(408) from None
        is_whole = not message.get("more_body", False)
        received += len(message.get("body", b""))
        if received > most:
            raise HTTPException(413)
        return message

    return limited


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body again, then what comes after it."""
    is_given = False

    async def replayed() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
