"""One attempt to post a signed event, and what the receiver's answer means.

It trusts no receiver: an answer may be slow, endless or nonsense. It does not know retries and
disks.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpx

from limelens.serve.about import package_version
from limelens.serve.handshakes import closing_given_up
from limelens.serve.redaction import without_secrets
from limelens.serve.wording import first_line
from limelens.watch.secret import SecretError, read_secret
from limelens.watch.sinks.errors import SinkError
from limelens.watch.sinks.signing import read_keys, signed_headers
from limelens.watch.sinks.spool import Spooled
from limelens.watch.sinks.webhook_settings import WebhookSettings

_TRANSIENT: Final = frozenset({408, 429})
_LONGEST_RETRY_AFTER_S: Final = 3600.0
"""A receiver cannot ask for more; its clock or ours may be wrong."""
_MAX_ANSWER_BYTES: Final = 4096
_MAX_KEYS: Final = 100
_MAX_ANSWER_S: Final = 1.0
_MAX_SAID: Final = 500
_MAX_CLOCKS_S: Final = 60.0
"""Between two clocks; receivers refuse a signature of another time."""


class LaterError(Exception):
    """The event was not taken, and another attempt is worth it; the message holds no secret."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RefusedError(Exception):
    """The receiver does not want this event, now or later.

    Args:
        status: Its answer's, such as 400.
        answer: The beginning of what it said.
        ahead_s: How far its clock is ahead of this machine's, in seconds.
    """

    def __init__(self, status: int, answer: str, ahead_s: float) -> None:
        clock = ""
        if abs(ahead_s) > _MAX_CLOCKS_S:
            word = "ahead of" if ahead_s > 0 else "behind"
            clock = f", and its clock is {abs(ahead_s):.0f} s {word} this machine's"
        super().__init__(f"status {status}{clock}")
        self.status = status
        self.answer = answer


class Receiver:
    """Where events are posted to. It is used on one event loop.

    Raises:
        SecretError, SinkError: The secret or the authorities cannot be used.
    """

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        self._url = settings.url.get_secret_value()
        self.shown = without_secrets(self._url)
        """Its address for messages."""
        self._headers = {
            "content-type": "application/json",
            "user-agent": f"limelens/{package_version()}",
            **{name: value.get_secret_value() for name, value in settings.headers.items()},
        }
        self._keys()
        self._tls = _tls(settings)

    def connecting(self) -> httpx.AsyncClient:
        """A client to post by."""
        # Redirects are not followed: events go where the settings say, and nowhere else.
        # Nor are cookies kept: a receiver could make each request larger than the last.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        return httpx.AsyncClient(
            verify=self._tls, follow_redirects=False, timeout=None, cookies=no_cookies
        )

    async def post(self, client: httpx.AsyncClient, message: Spooled) -> None:
        """Posts an event once; on return the receiver has it.

        Raises:
            LaterError: It was not taken now.
            RefusedError: It is not wanted.
        """
        try:
            keys = self._keys()  # anew each time, since the file may be replaced at any time
        except (SecretError, SinkError) as error:
            raise LaterError(str(error)) from error
        headers = {
            **self._headers,
            **signed_headers(keys, message.id, message.body, int(time.time())),
            "idempotency-key": message.id,
        }
        request = client.build_request(
            "POST",
            self._url,
            content=message.body,
            headers=headers,
            extensions={"trace": closing_given_up()},
        )
        try:
            # Over all of it: a timeout of httpx begins anew with each byte of a slow receiver.
            async with asyncio.timeout(self._settings.timeout_s):
                response = await client.send(request, stream=True)
        except TimeoutError:
            limit_s = self._settings.timeout_s
            raise LaterError(f"{self.shown}: no answer within {limit_s:g} s") from None
        except httpx.HTTPError as error:
            raise LaterError(f"{self.shown}: {_reason(error)}") from error
        try:
            answer = await _beginning(response)
        finally:
            await response.aclose()
        self._judge(response, answer)

    def _judge(self, response: httpx.Response, answer: str) -> None:
        status = response.status_code
        if response.is_success:
            return
        if response.is_client_error and status not in _TRANSIENT:
            ahead_s = _seconds_until(response.headers.get("date", "")) or 0.0
            raise RefusedError(status, answer, ahead_s)
        said = f"{self.shown}: answers {status} {response.reason_phrase}".rstrip()
        if response.is_redirect:
            there = without_secrets(response.headers.get("location", ""))
            said += f" to {there}, which is not followed; set url to where it is"
        raise LaterError(said, _retry_after_s(response.headers.get("retry-after", "")))

    def _keys(self) -> tuple[bytes, ...]:
        settings = self._settings
        text = read_secret(
            "the secret", settings.secret_file, settings.secret_env, max_lines=_MAX_KEYS
        )
        return read_keys("" if text is None else text.get_secret_value())


async def _beginning(response: httpx.Response) -> str:
    """The beginning of an answer; a short one is read to its end, which frees the connection."""
    found = b""
    with contextlib.suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(_MAX_ANSWER_S):
            async for chunk in response.aiter_raw():
                found += chunk
                if len(found) > _MAX_ANSWER_BYTES:
                    break
    return found[:_MAX_SAID].decode("utf-8", errors="replace")


def _retry_after_s(value: str) -> float:
    """Seconds of a Retry-After (RFC 9110, 10.2.3): a number or a date; 0 if it is neither."""
    seconds = float(value) if value.isascii() and value.isdecimal() else _seconds_until(value)
    return min(max(seconds or 0.0, 0.0), _LONGEST_RETRY_AFTER_S)


def _seconds_until(date: str) -> float | None:
    """From now to a date of HTTP; None if it is none."""
    try:
        then = parsedate_to_datetime(date)
        return (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None


def _reason(error: httpx.HTTPError) -> str:
    """Why a connection failed, for people."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted: {cause.verify_message}; if it is your own "
                "authority's, name that by tls_ca"
            )
        if isinstance(cause, OSError) and cause.strerror:
            # asyncio replaces the system's words for the number; a name's look-up has others.
            number = cause.errno or 0
            return os.strerror(number) if number in errno.errorcode else cause.strerror
        cause = cause.__cause__ or cause.__context__
    return first_line(error)


def _tls(settings: WebhookSettings) -> ssl.SSLContext | bool:
    if settings.tls_ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(settings.tls_ca))
    except (OSError, ssl.SSLError) as error:
        reason = "no certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise SinkError(
            f"{settings.tls_ca}: {reason}; expected a PEM file of authorities"
        ) from error
