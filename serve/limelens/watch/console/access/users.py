"""The file of users: names, roles and hashes of passwords.

    [users.anna]
    role = "operator"
    password = "$argon2id$…"

`limelens console users add` writes it whole, so that a reader finds the old or the new one. It
knows nothing of requests.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from argon2 import extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError

from limelens.serve.errors import AccessPolicyError
from limelens.serve.files import locked_folder, write_whole

NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_HASH_PATTERN: Final = r"\$argon2id\$[A-Za-z0-9$=,+/]{1,512}"
_MAX_BYTES: Final = 1 << 20
_MOST_KIB: Final = 1 << 20
_MOST_PASSES: Final = 100
_log = logging.getLogger(__name__)


class Role(StrEnum):
    """What a user may do."""

    VIEWER = "viewer"  # see everything
    OPERATOR = "operator"  # also correct labels and try images


@dataclass(frozen=True)
class User:
    """One user; `password` is the hash of theirs."""

    name: str
    role: Role
    password: str = field(repr=False)


def read_users(path: Path) -> dict[str, User]:
    """The users of a file, by name.

    Raises:
        AccessPolicyError: The file is missing or invalid, or others may write it.
    """
    try:
        with path.open("rb") as file:
            rights = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise AccessPolicyError(
            f"{path}: {error.strerror}; expected a file of users: limelens console users add NAME "
            f"--file {path} makes one"
        ) from error
    if rights & (stat.S_IWGRP | stat.S_IWOTH):
        raise AccessPolicyError(
            f"{path} can be written by others, who could add themselves; chmod 600 {path}"
        )
    if len(data) > _MAX_BYTES:
        raise AccessPolicyError(
            f"{path} has more than {_MAX_BYTES} bytes; that is no file of users"
        )
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise AccessPolicyError(f"{path} is not TOML: {error}; correct it") from error
    entries = document.pop("users", {})
    if document or not isinstance(entries, dict):
        raise AccessPolicyError(f"{path}: expected nothing but tables [users.NAME]")
    return {name: _read_user(name, entry, path) for name, entry in entries.items()}


def _read_user(name: str, entry: object, path: Path) -> User:
    place = f"{path}: [users.{name!r}]"
    if not re.fullmatch(NAME_PATTERN, name):
        raise AccessPolicyError(
            f"{place}: expected 1 to 64 letters, digits and . _ @ -, beginning with a letter or "
            "digit"
        )
    if not isinstance(entry, dict) or set(entry) != {"role", "password"}:
        raise AccessPolicyError(f"{place}: expected role and password, and nothing else")
    role, password = entry["role"], entry["password"]
    if role not in [one.value for one in Role]:
        raise AccessPolicyError(f"{place}: role: expected viewer or operator")
    if not isinstance(password, str) or not _is_hash(password):
        raise AccessPolicyError(
            f"{place}: password: expected a hash by argon2id; limelens console users add {name} "
            "writes one"
        )
    return User(name, Role(role), password)


def _is_hash(text: str) -> bool:
    """Whether it is a hash that can be checked here: one that cannot would fail every login."""
    if not re.fullmatch(_HASH_PATTERN, text):
        return False
    try:
        found = extract_parameters(text)
    except (Argon2Error, InvalidHashError):
        return False
    return found.memory_cost <= _MOST_KIB and found.time_cost <= _MOST_PASSES


@contextlib.contextmanager
def changing_users(path: Path) -> Iterator[dict[str, User]]:
    """The users of a file, which is made if missing; changes to them are written at the end.

    Raises:
        AccessPolicyError: The file is invalid, or its folder does not exist.
    """
    if not path.resolve().parent.is_dir():
        raise AccessPolicyError(f"{path.parent} is no folder; expected one for the file of users")
    with locked_folder(path.resolve().parent):
        users = read_users(path) if path.exists() else {}
        yield users
        write_users(path, users)


def write_users(path: Path, users: Mapping[str, User]) -> None:
    """Writes the users whole; only the owner may read the file."""
    entries = [
        f'[users."{user.name}"]\nrole = "{user.role}"\npassword = "{user.password}"\n'
        for user in users.values()
    ]
    if path.exists():
        path.chmod(0o600)
    write_whole(path, "\n".join(entries), mode=0o600)


class Users:
    """The users of a file as it is now; a file that became invalid leaves the previous users.

    Args:
        path: The file.

    Raises:
        AccessPolicyError: It cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._look()
        self._users = read_users(path)
        self.problem = ""

    def all(self) -> Mapping[str, User]:
        """Everybody; nobody if the file was deleted."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._users = {} if seen is None else read_users(self._path)
                self.problem = "" if seen else f"{self._path} is gone: nobody can log in"
            except AccessPolicyError as error:
                self.problem = str(error)
            if self.problem:
                _log.error("%s", self.problem)
            else:
                _log.info("%s was read again", self._path)
        return self._users

    def get(self, name: str) -> User | None:
        """One user; None if there is no such now."""
        return self.all().get(name)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
