"""The guard's page, served by the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx


def test_the_page_is_served_until_it_is_told_to_stop() -> None:
    command = ("console", "--server", "127.0.0.1:1", "--listen", "127.0.0.1:0")
    with subprocess.Popen(
        [sys.executable, "-m", "limelens.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("the page is at http://127.0.0.1:")
        address = said.split()[-1]
        answer = httpx.get(f"{address}/health", headers={"accept": "text/html"}, trust_env=False)
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_nothing_to_show_and_open_doors_are_refused(limelens: Callable[..., Any]) -> None:
    nothing = limelens("console")
    assert nothing.exit_code == 2
    assert "--record" in nothing.stderr
    beyond = limelens("console", "--server", "127.0.0.1:1", "--listen", "0.0.0.0:0")
    assert beyond.exit_code == 1
    assert "limelens console users add" in beyond.stderr
