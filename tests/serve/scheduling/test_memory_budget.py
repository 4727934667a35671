"""Callers that wait until there is room for their pixels."""

from __future__ import annotations

import asyncio

import pytest

from limelens.serve.scheduling.memory_budget import PixelBudget


class Holder:
    """Holds bytes from when it finds room until it is told to leave."""

    def __init__(self, budget: PixelBudget, count: int) -> None:
        self.is_in = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(budget, count))

    async def _hold(self, budget: PixelBudget, count: int) -> None:
        async with budget.holding(count):
            self.is_in = True
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settle() -> None:
    """Lets every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_wait_in_their_order_until_there_is_room() -> None:
    budget = PixelBudget(100)
    first, second = Holder(budget, 60), Holder(budget, 60)
    third = Holder(budget, 10)
    await settle()
    # The third would fit beside the first, but may not pass the second.
    assert [one.is_in for one in (first, second, third)] == [True, False, False]
    await first.leave()
    await settle()
    assert [one.is_in for one in (second, third)] == [True, True]
    assert budget.held == 70
    await second.leave()
    await third.leave()
    assert budget.held == 0


async def test_one_alone_may_hold_more_than_the_limit() -> None:
    budget = PixelBudget(100)
    large, small = Holder(budget, 500), Holder(budget, 1)
    await settle()
    assert [large.is_in, small.is_in] == [True, False]
    await large.leave()
    await settle()
    assert small.is_in
    await small.leave()


async def test_a_caller_that_leaves_lets_those_behind_it_pass() -> None:
    budget = PixelBudget(100)
    first, large, small = Holder(budget, 60), Holder(budget, 90), Holder(budget, 10)
    await settle()
    large.task.cancel()
    await settle()
    assert [large.is_in, small.is_in] == [False, True]
    await first.leave()
    await small.leave()
    assert budget.held == 0


async def test_a_caller_that_leaves_when_admitted_gives_its_room_back() -> None:
    budget = PixelBudget(100)
    first, second = Holder(budget, 60), Holder(budget, 60)
    await settle()
    await first.leave()  # the second is admitted, and has not run yet
    second.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second.task
    assert budget.held == 0
