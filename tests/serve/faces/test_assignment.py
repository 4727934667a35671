"""Assignments, against those of scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from limelens.serve.faces.assignment import assign


@pytest.mark.parametrize("decimals", [0, 1, 6])  # with many ties, with some, with none
def test_an_assignment_costs_as_little_as_that_of_scipy(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    for _ in range(200):
        costs = np.round(rng.random((rng.integers(1, 12), rng.integers(1, 12))) * 3, decimals)
        pairs = assign(costs)
        rows, columns = [row for row, _ in pairs], [column for _, column in pairs]
        assert len({*rows}) == len({*columns}) == len(pairs) == min(costs.shape)
        best = costs[linear_sum_assignment(costs)].sum()
        assert costs[rows, columns].sum() == pytest.approx(best)


def test_the_first_does_not_take_what_another_needs_more() -> None:
    costs = np.array([[1.0, 2.0], [1.0, 9.0]])
    assert assign(costs) == [(0, 1), (1, 0)]


def test_what_is_too_many_stays_alone() -> None:
    costs = np.array([[5.0], [1.0], [3.0]])
    assert assign(costs) == [(1, 0)]
    assert assign(costs.T) == [(0, 1)]
