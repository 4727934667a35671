"""A real console, and a browser without a screen that keeps cookies and sends forms."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from tests.conftest import mean_colour_metadata, save_bundle

from limelens.serve.bundle.explain_defaults import ExplainDefaults
from limelens.watch import console
from limelens.watch.console.access.users import Role, User, write_users
from limelens.watch.console.serving import Console
from limelens.watch.console.settings import ConsoleSettings
from limelens.watch.live import LiveCameras

CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
"""Tests of what follows a login need no slow hash."""


def csrf_of(page: str) -> str:
    """The token in a page's forms."""
    found = re.search(r'<meta name="csrf" content="([^"]+)">', page)
    assert found is not None
    return found[1]


class Browser(httpx.Client):
    """A client that asks like a browser."""

    def __init__(self, address: str, ca: Path | None = None) -> None:
        super().__init__(
            base_url=address,
            headers={"accept": "text/html"},
            verify=True if ca is None else ssl.create_default_context(cafile=ca),
            trust_env=False,
            timeout=60,
        )

    def csrf(self, path: str = "/login") -> str:
        """The token in a page's forms."""
        return csrf_of(self.get(path, follow_redirects=True).text)

    def fill_in(self, path: str, page: str = "/login", **form: str) -> httpx.Response:
        """Sends a form of a page."""
        return self.post(path, data={"csrf": self.csrf(page), **form})

    def log_in(self, name: str, password: str, **form: str) -> httpx.Response:
        return self.fill_in("/login", name=name, password=password, **form)


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A file of users whose passwords are `NAME has a password`."""
    path = tmp_path / "users.toml"
    set_users(path, {"vera": Role.VIEWER, "otto": Role.OPERATOR})
    return path


def set_users(path: Path, roles: dict[str, Role], word: str = "password") -> None:
    write_users(
        path,
        {
            name: User(name, role, CHEAP.hash(f"{name} has a {word}"))
            for name, role in roles.items()
        },
    )


@pytest.fixture
def start_console() -> Iterator[Callable[..., Console]]:
    """Starts consoles that are closed after the test.

    Arguments are as of `console.serve` or `ConsoleSettings`.
    """
    started: list[Console] = []

    def start(
        live: LiveCameras | None = None,
        record: Any = None,
        client: Any = None,
        problems: Any = tuple,
        **settings: Any,
    ) -> Console:
        given = ConsoleSettings(**{"listen": "127.0.0.1:0", **settings})
        started.append(console.serve(given, live or LiveCameras(), record, client, problems))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def browse() -> Iterator[Callable[..., Browser]]:
    """Opens browsers that are closed after the test; arguments as of `Browser`."""
    opened: list[Browser] = []

    def browse(address: str, ca: Path | None = None) -> Browser:
        opened.append(Browser(address, ca))
        return opened[-1]

    yield browse
    for one in opened:
        one.close()


def save_explainable(models: Path) -> Path:
    """A model repository whose model is explained by hiding in black.

    The default fill keeps colours, so that a model of colours would have nothing to explain.
    """
    explain = ExplainDefaults(hide=(0, 0, 0))
    save_bundle(models, replace(mean_colour_metadata(), explain=explain), 1)
    return models
