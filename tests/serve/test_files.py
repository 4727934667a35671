"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.waiting import until

from limelens.serve.files import write_whole, writing_whole


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_an_error_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")

    def write_half() -> None:
        with writing_whole(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a"]


def _write_with_little_room(path: Path) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write_whole(path, b"x" * 100_000)
    except OSError as error:
        os._exit(3 if (error.errno, error.filename) == (errno.EFBIG, str(path)) else 4)
    os._exit(5)


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)
    process = multiprocessing.get_context("spawn").Process(
        target=_write_with_little_room, args=(path,)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 3
    assert names(tmp_path) == ([] if before is None else ["a"])
    assert before is None or path.read_bytes() == before


def test_rights_links_and_the_longest_name_are_kept(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)
    path.write_bytes(b"before")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    write_whole(link, "after")
    assert link.is_symlink()
    assert path.read_text() == "after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write_whole(tmp_path / "secret", b"", mode=0o600)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_pipe_is_written_directly(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        write_whole(pipe, b"through")
        assert read.result(60) == b"through"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, b"")


def test_readers_see_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"a" * 200_000)
    is_over = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not is_over.is_set():
            seen.add(path.read_bytes())

    reading = threading.Thread(target=read)
    reading.start()
    until(lambda: seen)
    for letter in b"bcdefgh":
        write_whole(path, bytes([letter]) * 200_000)
    is_over.set()
    reading.join(60)
    assert {(len(one), len(set(one))) for one in seen} == {(200_000, 1)}


def token(name: str, file: Path, *, room: int | None = None) -> subprocess.CompletedProcess[str]:
    """`limelens token`, in a process that may write files of so many bytes."""
    return subprocess.run(
        [
            *(["prlimit", f"--fsize={room}:{room}"] if room is not None else []),
            *(sys.executable, "-m", "limelens.cli", "token", name, "--rights", "classify"),
            *("--file", str(file)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_token_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    assert token("a", path).returncode == 0
    before = path.read_bytes()
    failed = token("b", path, room=len(before) + 60)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr == f"limelens: {path}: File too large\n"
    assert path.read_bytes() == before
    assert names(tmp_path) == ["tokens.toml"]

    assert token("c", tmp_path / "new.toml", room=10).returncode == 1
    assert names(tmp_path) == ["tokens.toml"]


def test_tokens_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda name: token(name, path), "abcdef"))
    assert [one.returncode for one in made] == [0] * 6
    found = tomllib.loads(path.read_text())["client"]
    assert sorted(one["name"] for one in found) == list("abcdef")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# Writes half a file, says so, and waits to be killed.
WRITER = """
import sys
from pathlib import Path
from limelens.serve.files import writing_whole

with writing_whole(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("half", flush=True)
    sys.stdin.read()
"""
DAY_S = 24 * 3600.0
Start = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts another process that writes half a file."""
    started: list[subprocess.Popen[str]] = []

    def begin(path: Path) -> subprocess.Popen[str]:
        one = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(one)
        assert one.stdout is not None
        assert one.stdout.readline() == "half\n"
        return one

    yield begin
    for one in started:
        with one:
            one.kill()


def let_it_age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_what_a_killed_writer_leaves_is_removed_by_the_next_and_what_a_living_one_writes_stays(
    tmp_path: Path, start: Start
) -> None:
    killed, living = start(tmp_path / "a"), start(tmp_path / "b")
    killed.kill()
    killed.wait()
    parts = [*tmp_path.iterdir()]
    assert [part.read_bytes() for part in parts] == [b"half", b"half"]
    for part in parts:
        let_it_age(part, 9 * DAY_S)
    write_whole(tmp_path / "c", b"c")
    (left,) = {*tmp_path.iterdir()} - {tmp_path / "c"}
    assert left in parts
    living.communicate()
    assert living.returncode == 0
    assert names(tmp_path) == ["b", "c"]


@pytest.mark.parametrize("of", ["limelens-0123abcd-", "limelens-"])
def test_what_another_machine_or_version_left_is_removed_when_a_day_old(
    tmp_path: Path, of: str
) -> None:
    for name, age_s in (("old", 2 * DAY_S), ("new", DAY_S / 2)):
        folder = tmp_path / name
        folder.mkdir()
        part, other = folder / f".{of}0123456789ab.part", folder / ".limelens-mine.part"
        for path in (part, other):
            path.write_bytes(b"half")
            let_it_age(path, age_s)
        write_whole(folder / "a", b"a")
        assert part.exists() == (name == "new")
        assert other.exists()


def test_a_folder_that_cannot_be_listed_is_written_nevertheless(tmp_path: Path) -> None:
    tmp_path.chmod(0o300)
    try:
        write_whole(tmp_path / "a", b"a")
    finally:
        tmp_path.chmod(0o700)
    assert names(tmp_path) == ["a"]
