"""The tables of the record, while another process makes them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from limelens.watch.record.schema import VERSION, migrate, version_of


def test_a_record_that_another_begins_at_this_moment_is_no_other_programs(tmp_path: Path) -> None:
    ours, theirs = (
        sqlite3.connect(tmp_path / "events.sqlite", isolation_level=None) for _ in range(2)
    )
    ours.execute("PRAGMA journal_mode = WAL")

    def they_begin(statement: str) -> None:
        if "user_version" in statement:  # between two of our looks
            ours.set_trace_callback(None)
            migrate(theirs)

    ours.set_trace_callback(they_begin)
    assert version_of(ours) == 0
    assert version_of(ours) == version_of(theirs) == VERSION
    ours.close()
    theirs.close()
