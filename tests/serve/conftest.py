"""One server with one model, a client that tries each call once, and certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Authority

from limelens.serve import Client


@pytest.fixture
def server(start_server: Callable[..., Any]) -> Any:
    return start_server()


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(server.address, max_attempts=1) as client:
        yield client


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an authority, ca.pem, with NAME.pem and NAME.key of server and client."""
    authority = Authority(tmp_path_factory.mktemp("certificates"), "ca")
    for name in ("server", "client"):
        authority.issue(name)
    return authority.folder
