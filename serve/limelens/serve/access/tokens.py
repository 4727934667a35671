"""The file of clients: their names, the hashes of their tokens, and their rights.

    [[client]]
    name = "door"
    token_sha256 = "64 hexadecimal digits"    # or: subject = "CN=door,O=Acme"
    rights = ["classify", "models"]
    expires = 2027-01-01T00:00:00Z            # optional, as are the next keys
    rate_limit = "100/second"
    max_calls = 8
    max_waiting = 4

Tokens are 32 random bytes, stored as SHA-256 and compared in constant time. Slow hashes such as
argon2 protect passwords that can be guessed; 256 random bits cannot, and every call would pay for
the slow hash. No message repeats a token or a hash.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from limelens.serve.access.caller import ClientLimits
from limelens.serve.access.rights import Right, read_rights
from limelens.serve.errors import AccessPolicyError
from limelens.serve.files import locked_folder, write_whole

PREFIX: Final = "limelens_"
"""Prefix of tokens, so that scanners find one that leaked to a repository or log."""
_NUM_BYTES: Final = 32
NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_KEYS: Final = {
    "name", "token_sha256", "subject", "rights", "expires",
    "rate_limit", "max_calls", "max_waiting",
}  # fmt: skip
_NO_LIMITS: Final = ClientLimits()


@dataclass(frozen=True, repr=False)
class ClientEntry:
    """One entry of the file. A client may have several, to replace its token without a gap.

    Args:
        name: Its name in log lines and metrics.
        digest: SHA-256 of its token; None if it shows a certificate.
        subject: Its certificate's subject as in RFC 4514; None if it has a token.
        expires_at: In seconds since 1970; None is never.
        limits: Its own; the server's apply to those that are None.
        has_own_waiting: Whether the entry sets `max_waiting`.
    """

    name: str
    rights: frozenset[Right]
    digest: bytes | None = None
    subject: str | None = None
    expires_at: float | None = None
    limits: ClientLimits = _NO_LIMITS
    has_own_waiting: bool = False


class Clients:
    """The entries of a file, by what a caller shows."""

    def __init__(self, entries: Iterable[ClientEntry]) -> None:
        self.entries = tuple(entries)
        self._by_digest = {one.digest: one for one in self.entries if one.digest is not None}
        self._by_subject = {one.subject: one for one in self.entries if one.subject is not None}

    def with_token(self, token: str) -> ClientEntry | None:
        """The owner of a token."""
        digest = hashlib.sha256(token.encode()).digest()
        found = self._by_digest.get(digest)
        # The lookup may leak where two hashes differ, but nobody can choose a token by its hash;
        # the comparison that decides takes constant time.
        known = found.digest if found is not None and found.digest is not None else bytes(32)
        return found if hmac.compare_digest(known, digest) else None

    def with_subject(self, subject: str) -> ClientEntry | None:
        """The owner of a certificate with this subject."""
        return self._by_subject.get(subject)


def read_clients(data: bytes, where: str) -> Clients:
    """The clients of a file.

    Raises:
        AccessPolicyError: The file is invalid; the message says where and why.
    """
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise AccessPolicyError(f"{where} is not TOML: {error}; correct it") from error
    if not data.strip():
        raise AccessPolicyError(f"{where} is empty; expected clients: limelens token NAME adds one")
    entries = document.pop("client", [])
    if document or not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        odd = ", ".join(sorted(document)) or "client"
        raise AccessPolicyError(f"{where}: {odd}: expected nothing but [[client]] tables")
    clients = []
    seen: set[bytes | str] = set()
    for number, entry in enumerate(entries, 1):
        place = f"{where}: client {number}"
        name = entry.get("name")
        if isinstance(name, str) and re.fullmatch(NAME_PATTERN, name):
            place = f"{place} ({name})"
        client = _read_client(entry, place)
        shown = client.digest or client.subject or ""
        if shown in seen:
            raise AccessPolicyError(f"{place}: an earlier client has the same token or subject")
        seen.add(shown)
        clients.append(client)
    return Clients(clients)


def new_token() -> str:
    """A new random token."""
    return PREFIX + secrets.token_urlsafe(_NUM_BYTES)


def entry_text(
    name: str,
    token: str,
    rights: Iterable[Right],
    expires: datetime.datetime | None = None,
    limits: ClientLimits = _NO_LIMITS,
) -> str:
    """An entry for the file, which holds the token's hash."""
    lines = [
        "[[client]]",
        f'name = "{name}"',
        f'token_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"',
        "rights = [" + ", ".join(f'"{right}"' for right in sorted(rights)) + "]",
    ]
    if expires is not None:
        utc = expires.astimezone(datetime.UTC).replace(tzinfo=None)
        lines.append(f"expires = {utc.isoformat(timespec='seconds')}Z")
    if limits.rate is not None:
        lines.append(f'rate_limit = "{limits.rate}"')
    if limits.max_calls is not None:
        lines.append(f"max_calls = {limits.max_calls}")
    return "\n".join(lines) + "\n"


def append_entry(path: Path, text: str) -> None:
    """Appends an entry to the file; a new file is readable by its owner only.

    Raises:
        AccessPolicyError: The file, with or without the entry, is invalid.
    """
    with locked_folder(path.resolve().parent):
        before = path.read_bytes() if path.exists() else b""
        if before.strip():
            read_clients(before, str(path))
        gap = b"" if not before else b"\n" if before.endswith(b"\n") else b"\n\n"
        after = before + gap + text.encode()
        read_clients(after, str(path))
        write_whole(path, after, mode=0o600)


def _read_client(entry: Mapping[str, Any], place: str) -> ClientEntry:
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        raise AccessPolicyError(
            f"{place}: {', '.join(unknown)}: no such key; expected {', '.join(sorted(_KEYS))}"
        )
    name = entry.get("name")
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        raise AccessPolicyError(
            f"{place}: name: expected 1 to 64 letters, digits and . _ @ -, beginning with a "
            "letter or digit"
        )
    digest, subject = entry.get("token_sha256"), entry.get("subject")
    if (digest is None) == (subject is None):
        raise AccessPolicyError(f"{place}: expected either token_sha256 or subject")
    if digest is not None and not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
        raise AccessPolicyError(
            f"{place}: token_sha256: not a hash; expected 64 hexadecimal digits in lower case, "
            "as limelens token writes them"
        )
    if subject is not None and not (isinstance(subject, str) and subject):
        raise AccessPolicyError(f"{place}: subject: expected a text such as 'CN=door,O=Acme'")
    rate = entry.get("rate_limit")
    if rate is not None and not isinstance(rate, str):
        raise AccessPolicyError(f"{place}: rate_limit: expected a text such as '100/second'")
    return ClientEntry(
        name=name,
        rights=_rights(entry.get("rights"), place),
        digest=bytes.fromhex(digest) if digest is not None else None,
        subject=subject,
        expires_at=_time(entry.get("expires"), place),
        limits=ClientLimits(
            rate=rate,
            max_calls=_count(entry, "max_calls", 1, place),
            max_waiting=_count(entry, "max_waiting", 0, place) or 0,
        ),
        has_own_waiting="max_waiting" in entry,
    )


def _rights(found: Any, place: str) -> frozenset[Right]:
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise AccessPolicyError(f"{place}: rights: expected a list such as {['classify']}")
    try:
        return read_rights(found)
    except ValueError as error:
        raise AccessPolicyError(f"{place}: rights: {error}") from None


def _time(found: Any, place: str) -> float | None:
    if found is None:
        return None
    if isinstance(found, datetime.date) and not isinstance(found, datetime.datetime):
        found = datetime.datetime.combine(found, datetime.time())
    if not isinstance(found, datetime.datetime):
        raise AccessPolicyError(f"{place}: expires: expected a time such as 2027-01-01T00:00:00Z")
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.UTC)
    at: float = found.timestamp()
    return at


def _count(entry: Mapping[str, Any], key: str, least: int, place: str) -> int | None:
    found = entry.get(key)
    if found is None or (type(found) is int and found >= least):
        return found
    raise AccessPolicyError(f"{place}: {key}: {found!r}; expected a whole number from {least}")
