"""Hashes of passwords by argon2id, which cost what this machine can bear.

Nobody learns from the time that a check takes whether a user exists.
"""

from __future__ import annotations

import secrets
import threading
import time
import unicodedata
from collections.abc import Iterable
from typing import Final

from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError
from argon2.profiles import RFC_9106_LOW_MEMORY

from limelens.watch.console.access.users import User

MIN_LENGTH: Final = 12
MAX_BYTES: Final = 1024
_WANTED_S: Final = 0.25
_MAX_TIME_COST: Final = 20


def refusal(password: str) -> str:
    """Why a password is not taken, for people; empty if it is."""
    if len(password) < MIN_LENGTH:
        return f"{len(password)} characters; expected at least {MIN_LENGTH}, such as four words"
    if len(_bytes(password)) > MAX_BYTES:
        return f"more than {MAX_BYTES} bytes; expected a shorter one"
    if any(unicodedata.category(one) == "Cc" for one in password):
        return "control characters; expected a password in one line"
    if len(set(password)) < 4:
        return "fewer than four different characters; expected such as four words"
    return ""


def hash_password(password: str) -> str:
    """The hash of a new password; its cost is about a quarter of a second here.

    It starts from the second of RFC 9106's recommended options (64 MiB, three passes) and never
    goes below it.
    """
    profile = RFC_9106_LOW_MEMORY
    passes = profile.time_cost
    while True:
        hasher = PasswordHasher(passes, profile.memory_cost, profile.parallelism, type=Type.ID)
        began = time.perf_counter()
        made = hasher.hash(_bytes(password))
        took_s = time.perf_counter() - began
        if took_s >= _WANTED_S / 2 or passes >= _MAX_TIME_COST:
            return made
        passes = min(_MAX_TIME_COST, max(passes + 1, round(passes * _WANTED_S / took_s)))


class Passwords:
    """Checks passwords, a few at a time: each check takes 64 MiB."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._lock = threading.Lock()
        self._nobodys = ""

    def is_right(self, user: User | None, password: str, everybody: Iterable[User]) -> bool:
        """Whether it is the user's password. It blocks for about a quarter of a second.

        Args:
            user: None if there is no such user: then it takes as long, and is False.
            password: What was entered.
            everybody: All users, whose hashes say how long a check takes here.
        """
        known = user.password if user is not None else self._decoy(everybody)
        try:
            self._hasher.verify(known, _bytes(password)[: MAX_BYTES + 1])
        except (Argon2Error, InvalidHashError):
            return False
        return user is not None

    def _decoy(self, everybody: Iterable[User]) -> str:
        """A hash of nobody's password, as costly as the costliest of the users'."""
        costs = [extract_parameters(one.password) for one in everybody]
        wanted = max(
            costs or [RFC_9106_LOW_MEMORY], key=lambda one: one.memory_cost * one.time_cost
        )
        with self._lock:
            if not self._nobodys or extract_parameters(self._nobodys) != wanted:
                hasher = PasswordHasher.from_parameters(wanted)
                self._nobodys = hasher.hash(secrets.token_bytes(32))
            return self._nobodys


def _bytes(password: str) -> bytes:
    # The same letters may be typed as other code points on another keyboard.
    return unicodedata.normalize("NFC", password).encode(errors="surrogatepass")
