"""Rows that are timed in turns, and their table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass(eq=False)
class Row:
    """Something to time.

    Args:
        name: What it is.
        run: Does all images; returns how many a second it counted itself, or None.
        is_floor: Whether the fastest of such rows is what all are compared with.
        scale: Rates are multiplied by it.
        is_here: Whether it works in this process, whose CPU time is measured.
        rates: Images a second, of each round.
        counted: The same by its own count; empty if it has none.
        cpu_s: Seconds of CPU for an image, of each round: other programs hardly disturb them.
    """

    name: str
    run: Callable[[], float | None]
    is_floor: bool = False
    scale: float = 1.0
    is_here: bool = True
    rates: list[float] = field(default_factory=list)
    counted: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def alternate(rows: Sequence[Row], num_images: int, rounds: int) -> None:
    """Runs the rows in turns, in another order each round; the first round is for warming up."""
    rng = np.random.default_rng(0)
    for round_ in range(rounds + 1):
        for place in rng.permutation(len(rows)):
            row = rows[place]
            start, cpu_start = time.perf_counter(), time.process_time()
            counted = row.run()
            seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
            if round_:
                row.rates.append(row.scale * num_images / seconds)
                row.cpu_s.append(cpu_s / num_images)
                row.counted += [] if counted is None else [counted]


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Prints the rows, with their ratios to the fastest floor."""
    floors = [row.rates for row in rows if row.is_floor]
    floor = max(floors, key=statistics.median)
    table = Table(title=title)
    table.add_column("what")
    table.add_column("images a second", justify="right")
    table.add_column("by the floor", justify="right")
    table.add_column("CPU: ms an image", justify="right")
    for row in rows:
        cpu = f"{1000 * statistics.median(row.cpu_s):.2f}" if row.is_here else ""
        _add(table, row.name, row.rates, floor, cpu)
        if row.counted:
            _add(table, f"{row.name}, by its own count", row.counted, floor)
    Console(width=120).print(table)


def drain(results: Iterable[object]) -> None:
    """Waits for all results, and raises what one of them raises."""
    for _ in results:
        pass


def _add(
    table: Table, name: str, rates: Sequence[float], floor: Sequence[float], *more: str
) -> None:
    ratios = [mine / best for mine, best in zip(rates, floor, strict=True)]
    rate, ratio = statistics.median(rates), statistics.median(ratios)
    table.add_row(name, f"{rate:.1f}", f"{ratio:.2f}", *more)
