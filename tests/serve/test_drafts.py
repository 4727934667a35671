from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from limelens.serve.drafts import new_draft, publish

# Writes a draft, says where, and waits to be killed.
WRITER = """
import sys
from pathlib import Path
from limelens.serve.drafts import new_draft

with new_draft(Path(sys.argv[1])) as draft:
    (draft / "model.onnx").write_bytes(b"half")
    print(draft, flush=True)
    sys.stdin.read()
"""
DAY_S = 24 * 3600.0
Start = Callable[[], "tuple[subprocess.Popen[str], Path]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts another process that writes a draft."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> tuple[subprocess.Popen[str], Path]:
        one = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(one)
        assert one.stdout is not None
        return one, Path(one.stdout.readline().strip())

    yield begin
    for one in started:
        with one:
            one.kill()


def next_draft(folder: Path) -> None:
    with new_draft(folder):
        pass


def left_by(process: subprocess.Popen[str], draft: Path) -> Path:
    """The draft of a process that was killed."""
    process.kill()
    process.wait()
    assert (draft / "model.onnx").read_bytes() == b"half"
    return draft


def let_it_age(draft: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in (*draft.iterdir(), draft):
        os.utime(path, (then, then))


def test_a_published_draft_holds_what_was_written_and_nothing_else(tmp_path: Path) -> None:
    with new_draft(tmp_path) as draft:
        (draft / "model.onnx").write_bytes(b"whole")
        publish(draft, tmp_path / "1")
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["model.onnx"]
    assert (tmp_path / "1").stat().st_mode & 0o777 == 0o755


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with suppress(RuntimeError), new_draft(tmp_path) as draft:
        (draft / "model.onnx").write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_draft_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(
    tmp_path: Path, start: Start
) -> None:
    killed, living = start(), start()
    left_by(*killed)
    let_it_age(living[1], 9 * DAY_S)
    next_draft(tmp_path)
    assert list(tmp_path.iterdir()) == [living[1]]
    _, errors = living[0].communicate()
    assert living[0].returncode == 0, errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", ["another start or mount", ""])
def test_a_draft_of_another_machine_is_removed_when_nobody_touched_it_for_a_day(
    tmp_path: Path, start: Start, other: str
) -> None:
    draft = left_by(*start())
    (draft / ".writer").write_text(other)
    next_draft(tmp_path)
    assert list(tmp_path.iterdir()) == [draft]
    let_it_age(draft, 2 * DAY_S)
    (draft / "model.onnx").write_bytes(b"more")
    next_draft(tmp_path)
    assert list(tmp_path.iterdir()) == [draft]
    let_it_age(draft, 2 * DAY_S)
    next_draft(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_draft_without_a_lock_is_removed_after_a_day_and_other_folders_never(
    tmp_path: Path,
) -> None:
    draft, mine, elsewhere = (tmp_path / name for name in (".export-0a_b1c2d", ".export-mine", "x"))
    for folder in (draft, mine, elsewhere):
        folder.mkdir()
        (folder / "file").touch()
    (tmp_path / ".export-linkedin").symlink_to(elsewhere)
    next_draft(tmp_path)
    assert draft.exists()
    for folder in (draft, mine, elsewhere):
        let_it_age(folder, 2 * DAY_S)
    next_draft(tmp_path)
    assert not draft.exists()
    assert (mine / "file").exists()
    assert (elsewhere / "file").exists()
