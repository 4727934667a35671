"""Pairs rows with columns so that the sum of the costs is the least. It knows a matrix alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assign(costs: NDArray[np.float64]) -> list[tuple[int, int]]:
    """The pairs of the cheapest assignment.

    Rows join one after the other, each by the shortest augmenting path (Jonker and Volgenant, "A
    shortest augmenting path algorithm", Computing 38, 1987). The time grows with the number of
    rows, squared, times that of columns.

    Args:
        costs: `(N, M)`, finite.

    Returns:
        Row and column of `min(N, M)` pairs, by row; each row and column is in one at most.
    """
    if costs.shape[0] > costs.shape[1]:
        return sorted((row, column) for column, row in assign(costs.T))
    num_rows, num_columns = costs.shape
    row_of = np.full(num_columns, -1)
    column_of = np.full(num_rows, -1)
    row_prices, column_prices = np.zeros(num_rows), np.zeros(num_columns)
    for start in range(num_rows):
        lengths = np.full(num_columns, np.inf)
        came_from = np.full(num_columns, -1)
        settled = np.zeros(num_columns, dtype=bool)
        row, length = start, 0.0
        while row >= 0:
            reached = length + costs[row] - row_prices[row] - column_prices
            shorter = ~settled & (reached < lengths)
            lengths[shorter], came_from[shorter] = reached[shorter], row
            end = int(np.argmin(np.where(settled, np.inf, lengths)))
            length = float(lengths[end])
            settled[end] = True
            row = int(row_of[end])  # below 0 where the column is free: the path ends there
        saved = length - lengths[settled]
        column_prices[settled] -= saved
        owners = row_of[settled]
        row_prices[owners[owners >= 0]] += saved[owners >= 0]
        row_prices[start] += length
        while end >= 0:
            row = int(came_from[end])
            row_of[end] = row
            column_of[row], end = end, int(column_of[row])
    return [(row, int(column)) for row, column in enumerate(column_of)]
