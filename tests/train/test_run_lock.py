from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from limelens.train.run_lock import FILE, RunInUseError, check_free, writer_of, writing

# A filter for system calls: flock fails as on a file system without locks.
WITHOUT_LOCKS = """
import ctypes, errno, logging, platform, sys
from pathlib import Path
from limelens.train.run_lock import writer_of, writing

numbers = {"x86_64": 73, "aarch64": 32}
class Step(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte),
                ("k", ctypes.c_uint32)]
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.POINTER(Step))]
steps = (Step * 4)(
    Step(0x20, 0, 0, 0),                                   # load the number of the call
    Step(0x15, 0, 1, numbers[platform.machine()]),         # flock?
    Step(0x06, 0, 0, 0x00050000 | int(sys.argv[2])),       # fail
    Step(0x06, 0, 0, 0x7FFF0000),                          # go on
)
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Program(4, steps)), 0, 0):
    sys.exit(77)
logging.basicConfig(format="%(message)s")
run = Path(sys.argv[1])
with writing(run, "one"), writing(run, "another"):
    (run / "file").touch()
    assert writer_of(run) is None
"""


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    with writing(run, "limelens train"):
        words = rf"{run} is in use: limelens train \(process {os.getpid()} on .*wait .*, or fly"
        with pytest.raises(RunInUseError, match=words), writing(run, "another", ", or fly"):
            pass
        with pytest.raises(RunInUseError, match=words):
            check_free(run, ", or fly")
        # Whoever is refused leaves the folder of the other.
        assert (run / FILE).exists()
        (run / "file").touch()
    check_free(run)
    assert (run / "file").exists()
    with writing(run, "x"):
        pass


def test_a_new_folder_into_which_nothing_came_is_removed(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "runs" / "a" / "b", "x"):
        raise ZeroDivisionError
    assert [*tmp_path.rglob("*")] == [tmp_path / "runs"]
    with writing(tmp_path / "runs", "x"):
        pass
    assert (tmp_path / "runs").exists()


def test_a_folder_without_a_writer_is_free(tmp_path: Path) -> None:
    assert writer_of(tmp_path) is None
    assert writer_of(tmp_path / "gone") is None
    check_free(tmp_path / "gone")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="filters calls of Linux",
)
@pytest.mark.parametrize("error", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_without_locks_a_writer_is_warned_and_goes_on(tmp_path: Path, error: str) -> None:
    import errno

    number = getattr(errno, error)
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_LOCKS, str(tmp_path), str(number)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if found.returncode == 77:
        pytest.skip("this system allows no filters")
    assert found.returncode == 0, found.stderr
    reason = f"its file system has no locks ({os.strerror(number)})"
    assert found.stderr.count(f"{tmp_path}: {reason}, so nothing keeps another training out") == 2
    assert {path.name for path in tmp_path.iterdir()} == {FILE, "file"}
