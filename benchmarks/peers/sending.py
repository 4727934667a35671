"""Callers for any server, which send prepared bytes over HTTP or gRPC in a closed loop."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc
import grpc.aio

from limelens.serve.errors import LimelensError

_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class Target:
    """The server to call, and the requests.

    Args:
        address: `HOST:PORT`.
        method: A gRPC method's path; empty asks over HTTP.
        requests: Whole messages: of gRPC the request, of HTTP head and body.
    """

    address: str
    method: str
    requests: tuple[bytes, ...]


@dataclass(frozen=True)
class Sent:
    """The results.

    Args:
        per_s: Responses a second.
        failed: Calls without a response.
    """

    per_s: float
    failed: int


def http_request(address: str, path: str, body: bytes, content_type: str) -> bytes:
    """One POST as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask_once(target: Target) -> bytes:
    """One response.

    Raises:
        LimelensError: It was refused.
        OSError: Nobody is there.
    """
    if target.method:
        async with grpc.aio.insecure_channel(target.address) as channel:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
            method = channel.unary_unary(target.method)
            try:
                answer: bytes = await method(target.requests[0], timeout=5)
            except grpc.aio.AioRpcError as error:
                raise LimelensError(f"{error.code().name}: {error.details()}") from None
            return answer
    reader, writer = await asyncio.open_connection(*_host_and_port(target.address))
    try:
        return await asyncio.wait_for(_post(reader, writer, target.requests[0]), 5)
    finally:
        writer.close()


def send(
    target: Target,
    callers: int,
    seconds: float,
    on_begin: Callable[[], None],
    on_end: Callable[[], None],
    *,
    warmup_s: float = 0.5,
) -> Sent:
    """Callers in a process of their own.

    Args:
        target: The server.
        callers: How many at a time.
        seconds: For how long it is counted.
        on_begin: Called when counting begins.
        on_end: Called when it ends.
        warmup_s: For how long calls run before that.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (target, callers, seconds, warmup_s, theirs)
    process = context.Process(target=_in_process, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        begin = ours.recv()
        time.sleep(max(0.0, begin - time.monotonic()))
        on_begin()
        time.sleep(max(0.0, begin + seconds - time.monotonic()))
        on_end()
        found = ours.recv()
    finally:
        process.terminate()
        process.join()
    assert isinstance(found, Sent)
    return found


def _in_process(
    target: Target, callers: int, seconds: float, warmup_s: float, connection: Connection
) -> None:
    connection.send(begin := time.monotonic() + warmup_s + 0.2)
    connection.send(asyncio.run(_call(target, callers, begin, begin + seconds)))


async def _call(target: Target, callers: int, begin: float, end: float) -> Sent:
    answered = failed = 0

    async def count(ask: Callable[[bytes], Any], number: int) -> None:
        nonlocal answered, failed
        while time.monotonic() < end:
            number += 1
            try:
                await ask(target.requests[number % len(target.requests)])
            except (LimelensError, grpc.aio.AioRpcError):
                failed += 1
            else:
                answered += begin <= time.monotonic() < end

    async def over_grpc(channel: Any, number: int) -> None:
        method = channel.unary_unary(target.method)
        await count(lambda request: method(request, timeout=_TIMEOUT_S), number)

    async def over_http(number: int) -> None:
        reader, writer = await asyncio.open_connection(*_host_and_port(target.address))
        try:
            await count(lambda request: _post(reader, writer, request), number)
        finally:
            writer.close()

    if target.method:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            grpc.aio.insecure_channel(target.address, options) for _ in range(1 + callers // 16)
        ]
        await asyncio.gather(*(over_grpc(channels[i % len(channels)], i) for i in range(callers)))
        for channel in channels:
            await channel.close()
    else:
        await asyncio.gather(*(over_http(i) for i in range(callers)))
    return Sent(answered / (end - begin), failed)


async def _post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> bytes:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, found, rest = head.partition(b"content-length:")
    if not found:
        raise LimelensError("a response without its length")
    body = await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
    if not head.startswith(b"http/1.1 200"):
        raise LimelensError(f"{head.splitlines()[0].decode()}: {body[:200]!r}")
    return body


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
