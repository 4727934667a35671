"""Runs a trial in a thread of its own, and brings its news to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from limelens.serve import Client
from limelens.watch.console.trying.asked import Asked
from limelens.watch.console.trying.desk import Turn
from limelens.watch.console.trying.trial import Progress, Tried, explain


async def in_thread(
    connect: Callable[[], Client], image: bytes, asked: Asked, turn: Turn
) -> AsyncGenerator[Progress | Tried | None]:
    """What a trial says; None if its turn ended first.

    Args:
        connect: Opens a client of the server.
        image: The file's bytes.
        asked: What to explain, and how.
        turn: The session's.

    Raises:
        LimelensError: As `explain`.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Progress | Tried | None]()

    def put(news: Progress | Tried | None) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, news)

    def work() -> None:
        with connect() as client:
            trial = explain(client, image, asked)
            try:
                for news in trial:
                    if turn.ended.is_set():
                        put(None)
                        return
                    put(news)
            finally:
                trial.close()

    def done(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # nobody asks for it if the visitor has left
        queue.put_nowait(None)

    working = asyncio.create_task(asyncio.to_thread(work))
    working.add_done_callback(done)
    try:
        while (news := await queue.get()) is not None:
            yield news
            if isinstance(news, Tried):
                break
        else:
            if turn.ended.is_set():
                yield None
    finally:
        turn.ended.set()
        await working  # raises what went wrong
