"""The pages for logging in and out, and the choice of language and theme."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from limelens.watch.console.access.audit import audit
from limelens.watch.console.access.visitors import Visitors
from limelens.watch.console.rendering import THEMES

if TYPE_CHECKING:
    from limelens.watch.console.state import AppState

_AT_A_TIME: Final = 2
_MAX_WAITING: Final = 16
_YEAR_S: Final = 365 * 24 * 3600


def routes(state: AppState) -> list[Route]:
    """Logging in and out, and preferences."""
    pages = _Login(state)
    return [
        Route("/login", pages.show, methods=["GET"]),
        Route("/login", pages.log_in, methods=["POST"]),
        Route("/logout", pages.log_out, methods=["POST"]),
        Route("/session", pages.session, methods=["GET"]),
        Route("/preferences", pages.prefer, methods=["POST"]),
    ]


class _Login:
    def __init__(self, state: AppState) -> None:
        self._visitors: Visitors = state.visitors
        self._pages = state.pages
        self._checking = asyncio.Semaphore(_AT_A_TIME)
        self._num_waiting = 0

    async def show(self, request: Request) -> Response:
        """The form; who is logged in goes on."""
        then = own_path(request.query_params.get("next", ""))
        if request.state.visitor.may_see:
            return RedirectResponse(then, 303)
        return self._pages.render(request, "login.html", next=then, name="", message="")

    async def log_in(self, request: Request) -> Response:
        """Checks name and password."""
        visitors, form = self._visitors, await request.form()
        name, password = _word(form, "name")[:64], _word(form, "password")
        then = own_path(_word(form, "next"))
        if visitors.users is None:
            return RedirectResponse(then, 303)
        user = visitors.users.get(name)
        address = request.client.host if request.client is not None else ""
        who = name, address, visitors.known_browser(request, user)
        wait_s = visitors.lockout.wait_s(*who, visitors.now())
        if wait_s > 0:
            audit(request, "login refused: too many wrong ones", name=name, wait_s=round(wait_s))
            return self._again(request, 429, name, then, "wait", math.ceil(wait_s))
        if self._num_waiting >= _MAX_WAITING:
            return self._again(request, 503, name, then, "busy", 5)
        visitors.lockout.count(*who, visitors.now())
        self._num_waiting += 1
        try:
            async with self._checking:
                everybody = tuple(visitors.users.all().values())
                is_right = await asyncio.to_thread(
                    visitors.passwords.is_right, user, password, everybody
                )
        finally:
            self._num_waiting -= 1
        if user is None or not is_right:
            audit(request, "login refused: wrong name or password", name=name)
            return self._again(request, 403, name, then, "wrong", 0)
        visitors.lockout.take_back(*who, visitors.now())
        visitors.log_out(request)
        audit(request, "logged in", name=name, role=user.role.value)
        response = RedirectResponse(then, 303)
        self._set(request, response, "login", visitors.log_in(user), None)
        self._set(request, response, "browser", visitors.browser_cookie(user), _YEAR_S)
        return response

    async def log_out(self, request: Request) -> Response:
        """Ends the login."""
        audit(request, "logged out")
        self._visitors.log_out(request)
        return RedirectResponse("/login", 303)

    async def session(self, request: Request) -> Response:
        """Whether there is a login: a link from another page comes without its cookie."""
        return JSONResponse({"may_see": request.state.visitor.may_see})

    async def prefer(self, request: Request) -> Response:
        """Keeps the choice of language and theme in this browser."""
        form = await request.form()
        response = RedirectResponse(own_path(_word(form, "next")), 303)
        allowed = {"language": tuple(self._pages.sentences.languages), "theme": THEMES}
        for name, values in allowed.items():
            value = _word(form, name)
            if value in values:
                response.set_cookie(
                    f"limelens-{name}",
                    value,
                    max_age=_YEAR_S,
                    secure=request.url.scheme == "https",
                    httponly=True,
                    samesite="lax",
                )
        return response

    def _again(
        self, request: Request, status: int, name: str, then: str, key: str, wait_s: int
    ) -> Response:
        message = self._pages.say(request, f"login.{key}", count=wait_s)
        response = self._pages.render(
            request, "login.html", status, next=then, name=name, message=message
        )
        if wait_s:
            response.headers["retry-after"] = str(wait_s)
        return response

    def _set(
        self, request: Request, response: Response, kind: str, value: str, max_age: int | None
    ) -> None:
        response.set_cookie(
            self._visitors.cookie_name(request, kind),
            value,
            max_age=max_age,
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )


def own_path(text: str) -> str:
    """A path of this application; `/` in place of anything that leads elsewhere."""
    is_own = text.startswith("/") and text[1:2] not in ("/", "\\") and text.isprintable()
    return text if is_own and "\\" not in text else "/"


def _word(form: FormData, key: str) -> str:
    value = form.get(key, "")
    return value if isinstance(value, str) else ""
