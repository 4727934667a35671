"""Starts writers of a record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from limelens.watch.record.settings import RecordSettings
from limelens.watch.record.writer import RecordWriter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "record"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., RecordWriter]]:
    """Starts writers with these settings; they end with the test."""
    writers: list[RecordWriter] = []

    def begin(*, blur: Any = None, **settings: Any) -> RecordWriter:
        made = RecordSettings(**{"path": folder, **settings})
        writers.append(RecordWriter(made, blur=blur, retry_s=0.05))
        return writers[-1]

    yield begin
    for writer in writers:
        writer.close(10)
