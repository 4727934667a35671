"""One server with one model, and a client that tries each call once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from limelens.serve import Client


@pytest.fixture
def server(start_server: Callable[..., Any]) -> Any:
    return start_server()


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(server.address, max_attempts=1) as client:
        yield client
