"""Measurements and requirements: printed one by one, as a table, and as JSON.

It knows numbers and their bounds, but not how they were measured.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from limelens.serve.errors import LimelensError


@dataclass(frozen=True)
class Row:
    """One metric.

    Args:
        what: Its name.
        measured: The value itself; None if only a ratio makes sense.
        unit: Of what was measured and of the floor.
        floor: The same without limelens, in the same run; None if there is none.
        ratio: The value divided by the floor, or another ratio that the name gives.
        required: The bound that must be met; None if there is none.
        wanted: A stricter bound, which is desirable.
        bounded: The bounded value.
        more_is_better: Whether larger values are better.
        note: Further information.
    """

    what: str
    measured: float | None = None
    unit: str = ""
    floor: float | None = None
    ratio: float | None = None
    required: float | None = None
    wanted: float | None = None
    bounded: Literal["measured", "ratio"] = "ratio"
    more_is_better: bool = False
    note: str = ""

    @property
    def result(self) -> str:
        """`wanted`, `required` or `missed`, whichever was reached; empty without a bound."""
        value = self.ratio if self.bounded == "ratio" else self.measured
        if self.required is None or value is None:
            return ""
        for name, bound in (("wanted", self.wanted), ("required", self.required)):
            if bound is not None and (value >= bound if self.more_is_better else value <= bound):
                return name
        return "missed"

    @property
    def bounds(self) -> tuple[str, str]:
        """What is required and what is wanted; empty without a bound."""
        sign = ">= " if self.more_is_better else "<= "
        return (
            "" if self.required is None else sign + _short(self.required),
            "" if self.wanted is None else _short(self.wanted),
        )

    def cells(self) -> tuple[str, ...]:
        """The note in the table."""
        return (
            self.what,
            _with_unit(self.measured, self.unit),
            _with_unit(self.floor, self.unit),
            _short(self.ratio),
            *self.bounds,
            self.result,
            self.note,
        )


@dataclass(eq=False)
class Report:
    """Rows and failures as they come.

    Args:
        machine: The machine.
        file: Where the JSON goes, written anew with every row; None writes none.
    """

    machine: dict[str, Any]
    file: Path | None = None
    rows: list[Row] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def note(self, text: str) -> None:
        """Prints a note."""
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    def add(self, row: Row) -> None:
        """Prints and keeps a metric."""
        self.rows.append(row)
        names = ("", "", "floor", "ratio", "required", "wanted", "", "")
        cells = zip(names, row.cells(), strict=True)
        self.note("  " + "  ".join(f"{name} {cell}".strip() for name, cell in cells if cell))
        self._write()

    def fail(self, part: str, error: str) -> None:
        """Prints and keeps why metrics are missing."""
        self.failures[part] = error
        self.note(f"  {part} FAILED: {error}")
        self._write()

    @contextmanager
    def surviving(self, part: str) -> Iterator[None]:
        """Reports and keeps errors of the block instead of raising them.

        Args:
            part: Its name.
        """
        try:
            yield
        except LimelensError as error:
            self.fail(part, str(error))
        except Exception:
            self.fail(part, traceback.format_exc())

    def print_table(self) -> None:
        """All of it, last."""
        table = Table("what", box=None, pad_edge=False, header_style="bold")
        for title in ("measured", "floor", "ratio", "required", "wanted"):
            table.add_column(title, justify="right")
        table.add_column("met")
        table.add_column("note")
        for row in self.rows:
            table.add_row(*row.cells())
        console = Console(width=170, markup=False, highlight=False)
        console.print(table)
        for part, error in self.failures.items():
            console.print(f"not measured: {part}: {_last_line(error)}")
        console.print(f"{time.monotonic() - self.began:.0f} s in all; {describe(self.machine)}")
        self._write()

    def _write(self) -> None:
        if self.file is None:
            return
        document = {
            "machine": self.machine,
            "seconds": time.monotonic() - self.began,
            "rows": [{**asdict(row), "verdict": row.result} for row in self.rows],
            "failures": self.failures,
        }
        self.file.write_text(json.dumps(document, indent=1) + "\n")


def describe(machine: dict[str, Any]) -> str:
    """One line about a machine."""
    return ", ".join(f"{key} {value}" for key, value in machine.items() if value)


def median(values: Sequence[float]) -> float:
    """The median; fails without values."""
    import statistics

    return float(statistics.median(values))


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{_short(value)} {unit}".strip()


def _short(value: float | None) -> str:
    """Three significant digits, or all before the point."""
    if value is None:
        return ""
    if value == 0 or not abs(value) >= 1e-3:
        return f"{value:.1e}" if value else "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
