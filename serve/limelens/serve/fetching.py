"""Fetches URLs within deadlines and size limits, with retries and redirects.

It does not trust servers. Knows HTTP and files; does not know images or tables.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
import ssl
import zlib
from dataclasses import dataclass
from enum import IntEnum
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from limelens.serve.about import package_version
from limelens.serve.errors import LimelensError
from limelens.serve.handshakes import closing_given_up
from limelens.serve.redaction import image_address

_WEB: Final = ("http", "https")
# At least two letters: C:/images has a drive, not a scheme.
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_GZIP: Final = frozenset({"gzip", "x-gzip"})
# ValueError: names that only the look-up refuses, such as those with too long a part.
_INVALID: Final = (httpx.InvalidURL, ValueError)
_LARGEST_PORT: Final = 65_535
_LONGEST_CONNECT_S: Final = 10.0
_LONGEST_WAIT_S: Final = 30.0


class Network(IntEnum):
    """Where a host is, the innermost last."""

    INTERNET = 0
    PRIVATE = 1
    MACHINE = 2
    LINK = 3
    """Where clouds hand out the secrets of their machines."""


class FetchError(LimelensError):
    """A URL could not be fetched; `transient` if a later attempt may succeed.

    `retry_after_s` is the wait that the server asked for.
    """

    def __init__(
        self, message: str, *, transient: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.transient = transient
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class FetchLimits:
    """What one URL may cost.

    Args:
        timeout_s: For one attempt from the name's look-up to the last byte, redirects included;
            connecting may take 10 s of it.
        max_bytes: Of the response, as claimed, sent and unpacked.
        num_retries: Further attempts after a transient failure.
        backoff_s: The longest wait before the first retry; doubles with each retry, up to 30 s. A
            server's Retry-After is obeyed within the same bound.
    """

    timeout_s: float = 30.0
    max_bytes: int = 20_000_000
    max_redirects: int = 5
    num_retries: int = 3
    backoff_s: float = 0.5


def resolve(url: str, folder: Path) -> str:
    """Makes a URL of a table absolute: http, https, file, or a path relative to its folder.

    Raises:
        FetchError: The URL is empty or has another scheme.
    """
    if not url:
        raise FetchError("no URL")
    if not url.isprintable():
        raise FetchError(f"the URL {_shown_url(url)} holds a character that cannot be printed")
    scheme = _scheme(url)
    if scheme in _WEB:
        return url
    if scheme not in ("", "file"):
        raise FetchError(f"{scheme}: is not read; expected http, https, file or a path")
    path = url
    if scheme:
        path = unquote(url[len("file:") :])
        if path.startswith("//"):
            host, slash, rest = path[2:].partition("/")
            if host not in ("", "localhost"):
                raise FetchError(
                    f"{_shown_url(url)} names the host {_shown(host)}; "
                    "expected file:///absolute or file:relative"
                )
            path = slash + rest
    return (folder / path).absolute().as_uri()


def _scheme(url: str) -> str:
    match = _SCHEME.match(url)
    return match[1].lower() if match else ""


def file_of(url: str) -> Path | None:
    """The file that an absolute URL names; None if it is on the web."""
    return _path(url) if url.startswith("file:") else None


def identity(url: str) -> str:
    """The journal's key for an absolute URL; a changed file gets another one."""
    if not url.startswith("file:"):
        return url
    try:
        found = _path(url).stat()
    except OSError:
        return url
    return f"{url}#{found.st_mtime_ns}-{found.st_size}"


class Fetcher:
    """Fetches many URLs at once; an asynchronous context manager, or closed with `aclose`.

    Keeps no cookies, so that no response depends on an earlier one. Refuses redirects that lead
    from one network further in, such as from the internet to this machine: whoever wrote the URL
    may have meant such a host, but not whoever answers.

    Args:
        limits: For each URL.
    """

    def __init__(self, limits: FetchLimits) -> None:
        self._limits = limits
        self._client = httpx.AsyncClient(
            headers={
                "User-Agent": f"limelens/{package_version()}",
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            # Each attempt has a deadline of its own, which a trickling server cannot stretch.
            timeout=httpx.Timeout(None, connect=min(limits.timeout_s, _LONGEST_CONNECT_S)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            # httpx would read the body of each redirect, however long.
            follow_redirects=False,
        )
        self._backoff = wait_random_exponential(multiplier=limits.backoff_s, max=_LONGEST_WAIT_S)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the connections."""
        await self._client.aclose()

    async def fetch(self, url: str) -> bytes:
        """The content of a URL from `resolve`.

        Raises:
            FetchError: No attempt succeeded within the limits; the last one's reason.
        """
        if url.startswith("file:"):
            return await asyncio.to_thread(read_file, _path(url), self._limits.max_bytes)
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda e: isinstance(e, FetchError) and e.transient),
            stop=stop_after_attempt(self._limits.num_retries + 1),
            wait=self._wait,
            reraise=True,
        )
        return await retrying(self._attempt, url)

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_s if isinstance(error, FetchError) else None
        return self._backoff(state) if asked is None else min(asked, _LONGEST_WAIT_S)

    async def _attempt(self, url: str) -> bytes:
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await self._follow(url)
        except TimeoutError:
            raise FetchError(
                f"no complete response within {self._limits.timeout_s:g} s", transient=True
            ) from None
        except httpx.ConnectTimeout:
            raise FetchError("no connection in time", transient=True) from None
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, *_INVALID) as error:
            raise FetchError(f"not a valid URL: {error}") from error
        except httpx.TransportError as error:
            raise FetchError(_reason(error), transient=not _is_final(error)) from error

    async def _follow(self, url: str) -> bytes:
        target = _web_url(httpx.URL(url))
        for _ in range(self._limits.max_redirects + 1):
            extensions = {"trace": closing_given_up()}
            async with self._client.stream("GET", target, extensions=extensions) as response:
                if not response.has_redirect_location:
                    return await self._read(response)
                source, target = target, _redirected(response)
            before, after = await _innermost(source.host), await _innermost(target.host)
            if after > before:
                raise FetchError(
                    f"redirects from {_shown(source.host)} ({before.name.lower()}) further in, to "
                    f"{_shown(target.host)} ({after.name.lower()})"
                )
        raise FetchError(f"more than {self._limits.max_redirects} redirects")

    async def _read(self, response: httpx.Response) -> bytes:
        if not response.is_success:
            raise FetchError(
                f"HTTP status {response.status_code}",
                transient=response.status_code in _TRANSIENT_STATUS,
                retry_after_s=_retry_after(response),
            )
        limit = self._limits.max_bytes
        claimed = int(response.headers.get("content-length", 0))
        if claimed > limit:
            raise FetchError(f"claims {claimed:,} bytes; the limit is {limit:,}")
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in _GZIP | {"identity", ""}:
            raise FetchError(f"packed as {_shown(encoding)}; expected it unpacked, or gzip")
        unpacker = zlib.decompressobj(wbits=31) if encoding in _GZIP else None
        body = bytearray()
        num_received = 0
        async for chunk in response.aiter_raw():
            num_received += len(chunk)
            try:
                # One byte over the limit is enough to refuse.
                body += unpacker.decompress(chunk, limit + 1 - len(body)) if unpacker else chunk
            except zlib.error as error:
                raise FetchError(f"damaged gzip: {error}") from error
            if max(num_received, len(body)) > limit:
                raise FetchError(f"more than {limit:,} bytes, which is the limit")
        if unpacker and not unpacker.eof:
            raise FetchError("the gzip ends too early", transient=True)
        return bytes(body)


def _web_url(url: httpx.URL) -> httpx.URL:
    if url.scheme not in _WEB or not url.host:
        raise FetchError(
            f"{_shown_url(str(url))} is not a web address; expected http or https and a host"
        )
    # The socket's own error would not name the port.
    if url.port is not None and url.port > _LARGEST_PORT:
        raise FetchError(f"port {url.port}; expected at most {_LARGEST_PORT}")
    return url


def _redirected(response: httpx.Response) -> httpx.URL:
    location = response.headers["location"]
    try:
        return _web_url(response.url.join(location))
    except (FetchError, *_INVALID) as error:
        raise FetchError(f"redirects to {_shown_url(location)}: {error}") from error


def network_of(address: str) -> Network:
    """The network of an IP address, version 4 or 6.

    Raises:
        ValueError: It is no IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_link_local:
        return Network.LINK
    if ip.is_loopback or ip.is_unspecified:
        return Network.MACHINE
    return Network.INTERNET if ip.is_global else Network.PRIVATE


async def _innermost(host: str) -> Network:
    """The innermost network that a host's addresses are in."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return Network.INTERNET  # the connection will fail, or a proxy knows the name
    return max(network_of(str(address[0])) for *_, address in found)


def read_file(path: Path, max_bytes: int) -> bytes:
    """The content of a file.

    Raises:
        FetchError: It cannot be read, is no file or has more bytes than the limit.
    """
    try:
        # Reading a pipe or a device might never end.
        if path.exists() and not path.is_file():
            raise FetchError(f"{path} is not a file")
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes <= max_bytes and len(data := file.read(max_bytes + 1)) <= max_bytes:
                return data
    except OSError as error:
        raise FetchError(f"{path}: {error.strerror}", transient=True) from error
    raise FetchError(f"{path} has more than {max_bytes:,} bytes, which is the limit")


def _path(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path))


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdecimal() else None


def _is_final(error: httpx.TransportError) -> bool:
    """Whether a retry cannot help."""
    cause: BaseException | None = error
    while cause is not None:
        # httpx wraps a redirect to an invalid URL in such an error.
        if isinstance(cause, (ssl.SSLCertVerificationError, httpx.InvalidURL)):
            return True
        if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _reason(error: httpx.TransportError) -> str:
    kinds = {httpx.ConnectError: "no connection", httpx.RemoteProtocolError: "no valid response"}
    kind = kinds.get(type(error), "the connection broke")
    return f"{kind}: {str(error) or type(error).__name__}"


def _shown_url(url: str) -> str:
    """A URL for a message; a web address is shown without anything that may be a password."""
    return _shown(image_address(url) if _scheme(url) in _WEB else url)


def _shown(text: str) -> str:
    """Foreign text for a message: no control characters, not too long."""
    return repr(text if len(text) <= 100 else text[:100] + "…")
