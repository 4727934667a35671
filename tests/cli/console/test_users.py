"""Users of the guard's page, by the command line."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.waiting import until

from limelens.watch.console.access.passwords import Passwords
from limelens.watch.console.access.users import read_users

PASSWORD = "four words at least"


def test_users_are_added_listed_replaced_and_removed(
    limelens: Callable[..., Any], tmp_path: Path
) -> None:
    file, secret = tmp_path / "users.toml", tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    add = ("console", "users", "add", "--file", file, "--password-file", secret)
    assert limelens(*add, "vera", "--role", "viewer").exit_code == 0
    assert limelens(*add, "otto", "--role", "operator").exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert PASSWORD not in file.read_text()
    found = read_users(file)
    assert Passwords().is_right(found["vera"], PASSWORD, found.values())

    again = limelens(*add, "vera", "--role", "operator")
    assert (again.exit_code, again.stderr) == (
        1,
        f"limelens: vera is in {file} already; --replace gives another password\n",
    )
    assert limelens(*add, "vera", "--role", "operator", "--replace").exit_code == 0
    listed = limelens("console", "users", "list", "--file", file, "--json").json
    assert listed == {
        "users": [{"name": "vera", "role": "operator"}, {"name": "otto", "role": "operator"}]
    }
    assert limelens("console", "users", "remove", "vera", "--file", file).exit_code == 0
    assert set(read_users(file)) == {"otto"}
    assert "there are otto" in limelens("console", "users", "remove", "x", "--file", file).stderr


def test_a_user_without_a_usable_name_or_password_is_not_added(
    limelens: Callable[..., Any], tmp_path: Path
) -> None:
    file, secret = tmp_path / "users.toml", tmp_path / "password"
    add = ("console", "users", "add", "--file", file, "--role", "viewer")
    for text, said in (
        ("short\n", "expected at least 12"),
        ("one line\nand another\n", "2 lines"),
        ("", "0 lines"),
    ):
        secret.write_text(text)
        result = limelens(*add, "vera", "--password-file", secret)
        assert result.exit_code == 1
        assert said in result.stderr
    assert limelens(*add, "ve ra", "--password-file", secret).exit_code == 2
    assert "expected a file with a password" in limelens(*add, "v", "--password-file", "no").stderr
    assert not file.exists()


def test_a_password_is_asked_for_twice_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "users.toml"
    ours, theirs = pty.openpty()
    command = ("console", "users", "add", "vera", "--role", "viewer", "--file", file)
    process = subprocess.Popen(
        [sys.executable, "-m", "limelens.cli", *map(str, command)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    for asked in (b"Password for vera: ", b"Again: "):
        while asked not in shown:
            shown += os.read(ours, 1024)
        # What is typed before it stops showing letters is thrown away.
        until(lambda: not termios.tcgetattr(ours)[3] & termios.ECHO)
        os.write(ours, f"{PASSWORD}\n".encode())
    while True:
        try:
            shown += os.read(ours, 1024)
        except OSError:  # the other side is closed
            break
    assert process.wait(60) == 0
    os.close(ours)
    assert PASSWORD.encode() not in shown
    assert set(read_users(file)) == {"vera"}
