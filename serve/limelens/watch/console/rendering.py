"""Fills templates: in the reader's language, theme and role."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse

from limelens.watch.console.access.visitors import Visitor
from limelens.watch.console.details import Detail, Details, english
from limelens.watch.console.language import Sentences

THEMES: Final = ("auto", "light", "dark")
TEMPLATES: Final = Path(__file__).parent / "templates"


class Pages:
    """The templates. Everything in them is escaped, sentences too.

    Args:
        navigation: The paths of the pages, by the keys of their names in `[nav]`.
    """

    def __init__(self, navigation: Mapping[str, str]) -> None:
        self.sentences = Sentences()
        self._details = Details(self.sentences)
        self.navigation = navigation
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def render(
        self, request: HTTPConnection, template: str, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """A page.

        Args:
            request: Whose reader it is for.
            template: Its file in `templates/`.
            status: The response's.
            values: What the template uses beside `say(key, **values)`, `visitor`, `path`,
                `here` (with the query), `language` and `theme`; `english(text)` marks a text.
        """
        language = self.language(request)
        visitor: Visitor = request.state.visitor
        text = self._templates.get_template(template).render(
            values,
            say=functools.partial(self.sentences.say, language),
            english=english,
            script_words=json.dumps(self.sentences.below(language, "script")),
            language=language,
            languages=self.sentences.languages,
            theme=self._theme(request),
            themes=THEMES,
            visitor=visitor,
            navigation=self.navigation if visitor.may_see else {},
            path=request.url.path,
            here=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        )
        return HTMLResponse(text, status)

    def error(self, request: HTTPConnection, status: int, key: str, **values: Any) -> HTMLResponse:
        """A page that says what went wrong, by the sentence `[errors] KEY`."""
        language = self.language(request)
        return self.render(
            request,
            "error.html",
            status,
            message=self.sentences.say(language, f"errors.{key}", **values),
        )

    def say(self, request: HTTPConnection, key: str, **values: Any) -> str:
        """A sentence in the reader's language."""
        return self.sentences.say(self.language(request), key, **values)

    def detail(self, request: HTTPConnection, text: str) -> Detail:
        """Why something is lost or failed, in the reader's language if it can be."""
        return self._details.in_words(self.language(request), text)

    def language(self, request: HTTPConnection) -> str:
        """The reader's language."""
        return self.sentences.choose(
            request.cookies.get("limelens-language"), request.headers.get("accept-language", "")
        )

    def _theme(self, request: HTTPConnection) -> str:
        theme = request.cookies.get("limelens-theme", "")
        return theme if theme in THEMES else THEMES[0]
