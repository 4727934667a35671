"""Decoded images that processes share: two objects in one process open them as two would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limelens.serve.image import ResizeRule
from limelens.train.data.decoded import DecodedImages
from limelens.train.data.examples import DataError

RULE = ResizeRule(24, 16)

needs_linux = pytest.mark.skipif(
    not (hasattr(os, "memfd_create") and Path("/proc/self/fd").exists()),
    reason="processes share open files on Linux alone",
)


class Once:
    """Calls a function the first time, and repeats its result, as the second process gets it."""

    def __init__(self, changed: Callable[[Any], Any] = lambda places: places) -> None:
        self.places: Any = None
        self.changed = changed

    def __call__(self, make: Callable[[], Any]) -> Any:
        if self.places is None:
            self.places = make()
            return self.places
        return self.changed(self.places)


@pytest.fixture
def paths(divided: Path, tmp_path: Path) -> list[Path]:
    """Five images that a test may delete."""
    (tmp_path / "images").mkdir()
    found = sorted((divided / "train" / "red").iterdir())[:5]
    for path in found:
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    return sorted((tmp_path / "images").iterdir())


@needs_linux
@pytest.mark.parametrize("in_memory_bytes", [0, 2**30], ids=["file", "memory"])
def test_an_image_is_decoded_by_one_process_for_all(
    paths: list[Path], tmp_path: Path, in_memory_bytes: int
) -> None:
    folder, once = tmp_path / "run", Once()
    one, other = (DecodedImages(paths, RULE, 2, folder, in_memory_bytes, once) for _ in range(2))
    expected = DecodedImages(paths, RULE).pixels(range(5))
    assert np.array_equal(one.pixels([0, 1, 2, 1]), expected[[0, 1, 2, 1]])
    assert np.array_equal(other.pixels([3, 4]), expected[[3, 4]])
    for path in paths:
        path.unlink()
    for images in (one, other):
        assert np.array_equal(images.pixels(range(5)), expected)
        assert images.shapes(range(5)) == pytest.approx(40 / 48)
    # The other still has them if the process that made them ends.
    del one, images
    assert np.array_equal(other.pixels(range(5)), expected)
    assert not folder.exists() or not list(folder.iterdir())


@needs_linux
@pytest.mark.parametrize(
    "changes",
    [{"inode": 1}, {"path": Path("/proc/self/fd/999999")}, {"path": Path("/proc/1/fd/3")}],
    ids=["another-file", "no-file", "another-process"],
)
def test_a_process_that_cannot_open_the_files_decodes_for_itself(
    paths: list[Path], changes: dict[str, Any]
) -> None:
    once = Once(lambda places: [replace(place, **changes) for place in places])
    one, other = (DecodedImages(paths, RULE, once=once) for _ in range(2))
    expected = one.pixels(range(5))
    assert np.array_equal(other.pixels(range(5)), expected)
    for path in paths:
        path.unlink()
    assert np.array_equal(other.pixels(range(5)), expected)


def test_a_folder_that_cannot_be_written_is_reported(paths: list[Path]) -> None:
    with pytest.raises(DataError, match=r"need 0\.0 GiB in .*: Not a directory; free some"):
        DecodedImages(paths, RULE, folder=paths[0] / "run", in_memory_bytes=0, once=Once())


_KILLED_WHILE_ALONE = """
import os, signal, sys
from pathlib import Path
from limelens.train.data.shared_files import locked
with Path(sys.argv[1]).open("r+b", buffering=0) as file, locked(file):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_linux
def test_a_process_killed_while_it_kept_others_out_keeps_nobody_out(paths: list[Path]) -> None:
    once = Once()
    images = DecodedImages(paths, RULE, once=once)
    code = [sys.executable, "-c", _KILLED_WHILE_ALONE, str(once.places[0].path)]
    assert subprocess.run(code, check=False, timeout=120).returncode == -signal.SIGKILL
    assert images.pixels([0]).shape == (1, 3, 24, 16)
