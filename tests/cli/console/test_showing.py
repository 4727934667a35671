"""The guard's page, served by the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.watch.console.conftest import Browser, users

__all__ = ["users"]  # a fixture


def test_the_page_is_served_until_it_is_told_to_stop_and_says_who_logs_in(users: Path) -> None:
    command = ("console", "--server", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--users", users)
    with subprocess.Popen(
        [sys.executable, "-m", "limelens.cli", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("the page is at http://127.0.0.1:")
        address = said.split()[-1]
        with Browser(address) as browser:
            assert browser.log_in("vera", "vera has a password").status_code == 303
            assert browser.get("/health").status_code == 200
        process.send_signal(signal.SIGHUP)  # of a terminal that is closed, or a service's reload
        with Browser(address) as browser:
            assert browser.get("/static/console.css").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        said = process.stderr.read()
        assert said.count("\n") == 1
        assert "logged in: user '-', address '127.0.0.1', name 'vera', role 'viewer'" in said


def test_nothing_to_show_and_open_doors_are_refused(limelens: Callable[..., Any]) -> None:
    nothing = limelens("console")
    assert nothing.exit_code == 2
    assert "--record" in nothing.stderr
    beyond = limelens("console", "--server", "127.0.0.1:1", "--listen", "0.0.0.0:0")
    assert beyond.exit_code == 1
    assert "limelens console users add" in beyond.stderr
