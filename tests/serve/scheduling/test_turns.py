"""Callers that wait until there are places, and the turns of their clients."""

from __future__ import annotations

import asyncio

import pytest

from limelens.serve.scheduling.turns import Turns


class Caller:
    """Holds places from when it finds room until it is told to leave."""

    def __init__(self, turns: Turns, count: int, who: str = "one") -> None:
        self.is_in = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(turns, count, who))

    async def _hold(self, turns: Turns, count: int, who: str) -> None:
        async with turns.holding(who, count):
            self.is_in = True
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settle() -> None:
    """Lets every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_of_a_client_wait_in_their_order_until_there_is_room() -> None:
    turns = Turns(100, most_each=100)
    first, second = Caller(turns, 60), Caller(turns, 60)
    third = Caller(turns, 10)
    await settle()
    # The third would fit beside the first, but may not pass the second.
    assert [one.is_in for one in (first, second, third)] == [True, False, False]
    assert (turns.held, turns.num_waiting) == (60, 2)
    await first.leave()
    await settle()
    assert [one.is_in for one in (second, third)] == [True, True]
    assert turns.held == 70
    await second.leave()
    await third.leave()
    assert turns.held == 0


async def test_one_alone_may_hold_more_than_the_limit() -> None:
    turns = Turns(100, most_each=75)
    large, small = Caller(turns, 500), Caller(turns, 1)
    await settle()
    assert [large.is_in, small.is_in] == [True, False]
    await large.leave()
    await settle()
    assert small.is_in
    await small.leave()


async def test_a_client_does_not_wait_for_all_that_another_asks_for() -> None:
    turns = Turns(100, most_each=75)
    many = [Caller(turns, 60, "many") for _ in range(5)]
    small, large = Caller(turns, 10, "small"), Caller(turns, 60, "large")
    await settle()
    assert [one.is_in for one in many] == [True, False, False, False, False]
    assert small.is_in
    for one in many[:2]:
        await one.leave()
        await settle()
    assert large.is_in
    assert not any(one.is_in for one in many[2:])
    for one in (small, large, *many[2:]):
        await one.leave()
    assert turns.held == 0


async def test_a_client_does_not_take_the_places_of_others() -> None:
    turns = Turns(100, most_each=75)
    many = [Caller(turns, 25, "many") for _ in range(4)]
    await settle()
    assert [one.is_in for one in many] == [True, True, True, False]
    other = Caller(turns, 25, "other")
    await settle()
    assert other.is_in
    for one in (*many, other):
        await one.leave()


async def test_who_needs_many_places_is_not_passed_for_ever() -> None:
    turns = Turns(100, most_each=100)
    before = Caller(turns, 30, "before")
    await settle()
    large, num_passed = Caller(turns, 80, "large"), 0
    while True:
        small = Caller(turns, 10, f"small {num_passed % 3}")
        await settle()
        if not small.is_in:
            break
        num_passed += 1
        await small.leave()
    assert num_passed == 64
    await before.leave()
    await settle()
    assert [large.is_in, small.is_in] == [True, True]
    await large.leave()
    await small.leave()


async def test_a_caller_that_leaves_lets_those_behind_it_pass() -> None:
    turns = Turns(100, most_each=100)
    first, large, small = Caller(turns, 60), Caller(turns, 90), Caller(turns, 10)
    await settle()
    large.task.cancel()
    await settle()
    assert [large.is_in, small.is_in] == [False, True]
    await first.leave()
    await small.leave()
    assert turns.held == 0


async def test_a_caller_that_leaves_when_admitted_gives_its_room_back() -> None:
    turns = Turns(100, most_each=100)
    first, second = Caller(turns, 60), Caller(turns, 60)
    await settle()
    await first.leave()  # the second is admitted, and has not run yet
    second.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second.task
    assert turns.held == 0


@pytest.mark.parametrize("is_holder_first", [True, False])
async def test_callers_that_leave_together_take_nothing_with_them(is_holder_first: bool) -> None:
    turns = Turns(100, most_each=100)
    callers = [Caller(turns, 60, who) for who in ("one", "one", "two")]
    await settle()
    for one in callers if is_holder_first else reversed(callers):
        one.task.cancel()
    ends = await asyncio.gather(*[one.task for one in callers], return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 3
    assert (turns.held, turns.num_waiting) == (0, 0)
    late = Caller(turns, 100)
    await settle()
    assert late.is_in
    await late.leave()
