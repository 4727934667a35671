"""Turns: one for each session, few for all."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from tests.waiting import until_async

from limelens.watch.console.trying.desk import (
    MAX_AT_ONCE,
    MAX_KEPT,
    BusyError,
    Desk,
    SupersededError,
)


async def test_a_later_turn_of_a_session_ends_the_earlier_and_waits_for_it() -> None:
    desk, order = Desk(), []

    async def work(name: str) -> None:
        async with desk.turn("one") as turn:
            order.append(f"{name} begins")
            await until_async(turn.ended.is_set)
            order.append(f"{name} ends")

    first = asyncio.create_task(work("first"))
    await until_async(lambda: order)
    second = asyncio.create_task(work("second"))
    await until_async(lambda: len(order) == 3)
    third = asyncio.create_task(work("third"))
    fourth = asyncio.create_task(work("fourth"))
    await until_async(lambda: order[-1] == "fourth begins")
    assert desk.end("one")
    await asyncio.gather(first, second, fourth)
    with pytest.raises(SupersededError):  # nobody waits for it any more
        await third
    assert order == [f"{name} {what}" for name in ("first", "second", "fourth")
                     for what in ("begins", "ends")]  # fmt: skip
    assert not desk.end("one")


async def test_others_get_no_turn_while_all_places_are_taken() -> None:
    desk = Desk()
    async with AsyncExitStack() as turns:
        for session in range(MAX_AT_ONCE):
            await turns.enter_async_context(desk.turn(f"session {session}"))
        with pytest.raises(BusyError):
            await turns.enter_async_context(desk.turn("another"))
        assert not desk.end("another")
    async with desk.turn("another"):
        assert desk.end("another")


def test_a_session_sees_only_the_images_of_its_own_last_trial() -> None:
    desk = Desk()
    old = desk.keep("one", {"frame": b"old"})
    new = desk.keep("one", {"frame": b"new"})
    assert desk.image("one", old.name, "frame") is None
    assert desk.image("one", new.name, "frame") == b"new"
    assert desk.image("other", new.name, "frame") is None
    for session in range(MAX_KEPT):
        desk.keep(f"session {session}", {})
    assert desk.image("one", new.name, "frame") is None
