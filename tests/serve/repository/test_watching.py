"""When files are judged, and by whom."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from tests.conftest import BundleMaker

from limelens.serve.errors import BundleError, UnavailableError
from limelens.serve.repository.reload import Quiet
from limelens.serve.repository.validation import Validator, read_validated


def test_a_file_is_quiet_once_it_looked_the_same_for_long_enough() -> None:
    clock = [0.0]
    quiet = Quiet(1.0, lambda: clock[0])
    path = Path("model.onnx")
    found = []
    looks = ((0, 1), (0.6, 2), (1.2, 2), (1.7, 2), (5, 3), (5.9, 3), (6.1, 3), (30, 3), (37, 3))
    for moment, stamp in looks:
        clock[0] = moment
        quiet.begin()
        found.append(quiet(path, (stamp,)))
        assert quiet.pending is not found[-1]
        quiet.end()
    assert found == [False, False, False, True, False, False, True, False, True]


def test_what_is_no_longer_asked_for_is_forgotten() -> None:
    clock = [0.0]
    quiet = Quiet(1.0, lambda: clock[0])
    assert not quiet(Path("a"), (1,))
    quiet.begin()
    quiet.end()
    clock[0] = 9.0
    assert not quiet(Path("a"), (1,))


def test_a_judge_says_what_loading_would_say(tmp_path: Path, bundles: BundleMaker) -> None:
    good = bundles.save(tmp_path, bundles.metadata())
    judged = Validator()(good)
    data, metadata = read_validated(good, judged)
    assert data == good.read_bytes()
    assert metadata.to_props() == bundles.metadata().to_props()
    bad = bundles.save(tmp_path, bundles.metadata("bad"))
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(BundleError, match=r"bad/1/model\.onnx: not an ONNX file"):
        Validator()(bad)


def test_other_bytes_than_those_judged_are_not_loaded(tmp_path: Path, bundles: BundleMaker) -> None:
    path = bundles.save(tmp_path, bundles.metadata())
    judged = Validator(run=False)(path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BundleError, match="changed while it was checked"):
        read_validated(path, judged)


def test_a_judge_that_is_stopped_leaves_what_it_reads(tmp_path: Path) -> None:
    pipe = tmp_path / "model.onnx"
    pipe.write_bytes(b"not looked at")
    judge = Validator()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            judge(pipe)
        except UnavailableError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    ends = time.monotonic() + 60
    while judge._process is None and time.monotonic() < ends:
        time.sleep(0.001)
    judge.stop()  # before its interpreter is up
    asking.join(30)
    assert [str(error) for error in errors] == ["the server is going down"]
    with pytest.raises(UnavailableError):
        judge(pipe)


def test_a_judge_that_dies_speaks_against_the_file(tmp_path: Path) -> None:
    import contextlib
    import signal
    import subprocess

    pipe = tmp_path / "model.onnx"
    pipe.write_bytes(b"not looked at")
    judge = Validator()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            judge(pipe)
        except BundleError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    ends = time.monotonic() + 60
    process: subprocess.Popen[str] | None = None
    while process is None and time.monotonic() < ends:
        process = judge._process
    assert process is not None
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGSEGV)
    asking.join(30)
    assert len(errors) == 1
    assert "ended by signal 11" in str(errors[0])
