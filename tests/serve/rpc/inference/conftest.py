"""The stock client, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class StockError(Exception):
    """The stock client's error: status and message."""

    def __init__(self, status: str | None, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = (status or "").removeprefix("StatusCode.")
        self.message = message


class StockClient:
    """See stock_client.py beside this file."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("stock_client.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, address: str, code: str) -> Any:
        """Runs the body of a function of `client` and gives what it returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"address": address, "code": textwrap.dedent(code)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the stock client's process ended; its error is on stderr"
        answer = json.loads(line)
        if "failed" in answer:
            raise StockError(*answer["failed"])
        return answer["returned"]

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)


@pytest.fixture(scope="session")
def stock_process() -> Iterator[StockClient]:
    process = StockClient()
    yield process
    process.close()


@pytest.fixture
def stock(stock_process: StockClient, server: Any) -> Callable[[str], Any]:
    """Runs the body of a function of the stock `client` against the server."""
    return lambda code: stock_process(server.address, code)


@pytest.fixture
def stock_error() -> type[StockError]:
    return StockError
