"""When files are loaded, and how they are validated."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.conftest import BundleMaker
from tests.waiting import until

from limelens.serve.errors import BundleError, UnavailableError
from limelens.serve.repository.reload import Quiet
from limelens.serve.repository.validation import Validator, read_validated


def test_a_file_is_quiet_once_it_has_not_changed_for_long_enough() -> None:
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


def test_files_that_are_no_longer_checked_are_forgotten() -> None:
    clock = [0.0]
    quiet = Quiet(1.0, lambda: clock[0])
    assert not quiet(Path("a"), (1,))
    quiet.begin()
    quiet.end()
    clock[0] = 9.0
    assert not quiet(Path("a"), (1,))


def test_a_validator_finds_what_loading_would_find(tmp_path: Path, bundles: BundleMaker) -> None:
    good = bundles.save(tmp_path, bundles.metadata())
    result = Validator()(good)
    data, metadata = read_validated(good, result)
    assert data == good.read_bytes()
    assert metadata.to_props() == bundles.metadata().to_props()
    bad = bundles.save(tmp_path, bundles.metadata("bad"))
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(BundleError, match=r"bad/1/model\.onnx: not an ONNX file"):
        Validator()(bad)


def test_bytes_that_were_not_validated_are_not_loaded(tmp_path: Path, bundles: BundleMaker) -> None:
    path = bundles.save(tmp_path, bundles.metadata())
    result = Validator(run=False)(path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BundleError, match="changed while it was checked"):
        read_validated(path, result)


@pytest.fixture
def never_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds processes that validate when their interpreter starts, so that they do not end."""
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(600)\n")
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.mark.usefixtures("never_begins")
def test_a_validator_that_is_stopped_leaves_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not read")
    validator = Validator()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(validator, path)
        until(lambda: validator.pid is not None)
        validator.stop()  # before its interpreter is up
        with pytest.raises(UnavailableError, match=r"^the server is going down$"):
            asking.result(60)
    with pytest.raises(UnavailableError):
        validator(path)


@pytest.mark.usefixtures("never_begins")
def test_a_validation_that_crashes_rejects_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not read")
    validator = Validator()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(validator, path)
        until(lambda: validator.pid is not None)
        assert validator.pid is not None
        os.kill(validator.pid, signal.SIGSEGV)
        with pytest.raises(BundleError, match="ended by signal 11"):
            asking.result(60)
