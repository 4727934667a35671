"""Who may call this server: read from files, applied to every call.

It knows what a caller presents (a token, a certificate, its address) and what that allows; `guard`
refuses calls.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import stat
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from limelens.serve.access.caller import Caller, ClientLimits, Source
from limelens.serve.access.config import AccessConfig
from limelens.serve.access.limiting import read_rate
from limelens.serve.access.rights import ALL_RIGHTS
from limelens.serve.access.tokens import ClientEntry, Clients, read_clients
from limelens.serve.access.watched import Watched
from limelens.serve.errors import AccessPolicyError, UnauthenticatedError

if TYPE_CHECKING:
    from limelens.serve.access.signed import Key

TOKEN_KEY: Final = "authorization"
_SETTLE_S: Final = 0.1
_SUBJECT: Final = "x509_subject"
_log = logging.getLogger(__name__)


class Access:
    """Authenticates callers.

    Raises:
        AccessPolicyError: A file is missing or invalid.
    """

    def __init__(self, config: AccessConfig) -> None:
        self._config = config
        self._limits = ClientLimits(
            config.rate_limit, config.max_calls_per_client, config.max_waiting_per_client
        )
        if config.rate_limit is not None:
            read_rate(config.rate_limit)
        self._clients: Watched[Clients] | None = None
        self._keys: Watched[Sequence[Key]] | None = None
        try:
            if config.tokens is not None:
                self._clients = Watched([config.tokens], self._read_clients, settle_s=_SETTLE_S)
            if config.jwt is not None:
                self._keys = Watched([config.jwt.key], self._read_keys, settle_s=_SETTLE_S)
        except OSError as error:
            raise AccessPolicyError(
                f"{error.filename}: {error.strerror}; expected a file that says who may call"
            ) from error
        self.generation = 0  # grows whenever a file changes: callers must then be checked again
        self.changed = asyncio.Event()
        """Set when the next generation begins, which has an event of its own."""

    @property
    def may_change(self) -> bool:
        """Whether a caller may lose its access later."""
        return self._clients is not None or self._keys is not None

    def authenticate(
        self,
        metadata: Iterable[tuple[str, str | bytes]],
        peer: str,
        transport: Mapping[str, Iterable[bytes]],
    ) -> Caller:
        """The caller of a call, from its metadata, peer and authentication context as in gRPC.

        Raises:
            UnauthenticatedError: The token is missing, unknown, invalid or expired.
        """
        subject = _subject(transport)
        if not self.may_change:
            if subject is not None:
                return Caller(subject, "certificate", ALL_RIGHTS, self._limits)
            return Caller(_host(peer), "address", ALL_RIGHTS, self._limits)
        token = _token(metadata)
        if token is None:
            return self._with_certificate(subject)
        if self._keys is not None and self._config.jwt is not None and token.count(".") == 2:
            from limelens.serve.access.signed import read_token

            caller = read_token(token, self._keys.value, self._config.jwt)
            return replace(caller, limits=self._limits)
        client = self._clients.value.with_token(token) if self._clients is not None else None
        if client is None:
            raise UnauthenticatedError(
                "the token is not known here; expected one from the operator of this server"
            )
        return self._known(client, "token")

    async def watch(self) -> None:
        """Polls the files for changes, until it is cancelled."""
        while self.may_change:
            await asyncio.sleep(self._config.check_s)
            try:
                if await asyncio.to_thread(self._reread):
                    self.generation += 1
                    self.changed.set()
                    self.changed = asyncio.Event()
            # Whatever is wrong with the files, the current access stays in force.
            except Exception:
                _log.exception("the access files could not be read again")

    def _reread(self) -> bool:
        changed = [one.reread() for one in (self._clients, self._keys) if one is not None]
        return any(changed)

    def _with_certificate(self, subject: str | None) -> Caller:
        if subject is None:
            raise UnauthenticatedError(
                f"no token; expected the metadata '{TOKEN_KEY}: Bearer TOKEN'"
            )
        client = self._clients.value.with_subject(subject) if self._clients is not None else None
        if client is None:
            raise UnauthenticatedError(
                f"no token, and the certificate {subject} belongs to no client; expected the "
                f"metadata '{TOKEN_KEY}: Bearer TOKEN'"
            )
        return self._known(client, "certificate")

    def _known(self, client: ClientEntry, source: Source) -> Caller:
        if client.expires_at is not None and client.expires_at <= time.time():
            raise UnauthenticatedError(
                f"the access of {client.name} has expired; expected a new token from the operator "
                "of this server"
            )
        own = client.limits
        return Caller(
            client.name,
            source,
            client.rights,
            ClientLimits(
                own.rate or self._limits.rate,
                own.max_calls or self._limits.max_calls,
                own.max_waiting if client.has_own_waiting else self._limits.max_waiting,
            ),
            client.expires_at,
        )

    def _read_clients(self, data: Sequence[bytes]) -> Clients:
        path = self._config.tokens
        assert path is not None
        clients = read_clients(data[0], str(path))
        for one in clients.entries:
            if one.limits.rate is not None:
                try:
                    read_rate(one.limits.rate)
                except AccessPolicyError as error:
                    raise AccessPolicyError(f"{path}: {one.name}: {error}") from None
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            _log.warning("%s is writable by users other than its owner; chmod 600 it", path)
        return clients

    def _read_keys(self, data: Sequence[bytes]) -> Sequence[Key]:
        # Imported only if signatures are checked: cryptography takes memory and time to load.
        from limelens.serve.access.signed import read_keys

        assert self._config.jwt is not None
        return read_keys(data[0], str(self._config.jwt.key))


def _token(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    found = [value for key, value in metadata if key == TOKEN_KEY]
    if not found:
        return None
    scheme, _, token = str(found[0]).partition(" ")
    if len(found) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise UnauthenticatedError(
            f"the metadata {TOKEN_KEY} cannot be read; expected it once, as 'Bearer TOKEN'"
        )
    return token.strip()


def _subject(transport: Mapping[str, Iterable[bytes]]) -> str | None:
    for subject in transport.get(_SUBJECT) or ():
        return subject.decode(errors="replace")
    return None


@functools.lru_cache(maxsize=4096)  # a connection has many calls
def _host(peer: str) -> str:
    kind, _, address = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    return urllib.parse.unquote(address).rpartition(":")[0]
