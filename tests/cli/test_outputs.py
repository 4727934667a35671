from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from limelens.cli.options.output_options import (
    writable_file,
    writable_file_anywhere,
    writable_folder,
)
from limelens.serve.errors import LimelensError


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = tmp_path / "read_only"
    folder.mkdir()
    for name in ("file", "best.pt"):
        (folder / name).touch()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def test_a_read_only_folder_is_refused(read_only: Path) -> None:
    words = f"cannot be written: {read_only} is read-only for you"
    for check, path in (
        (writable_file, read_only / "file"),
        (writable_file, read_only / "new"),
        (writable_file_anywhere, read_only / "new" / "new"),
        (writable_folder, read_only),
        (writable_folder, read_only / "new" / "new"),
    ):
        with pytest.raises(LimelensError, match=words):
            check(path)


def test_calibrate_refuses_a_read_only_run_at_once(
    limelens: Callable[..., Any], read_only: Path
) -> None:
    result = limelens("calibrate", read_only, "nowhere")
    assert result.exit_code == 1
    assert "is read-only for you" in result.stderr


def test_what_can_be_written_is_accepted_and_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "mine").chmod(0o444)  # is replaced, and not opened
    (tmp_path / "link").symlink_to("elsewhere")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "mine", tmp_path / "link", Path("new"), pipe, Path("/dev/null"), None):
        assert writable_file(path) == path
        assert writable_file_anywhere(path) == path
    for path in (Path("a/b/c"), tmp_path, Path(), None):
        assert writable_folder(path) == path
    assert {one.name for one in tmp_path.iterdir()} == {"mine", "link", "pipe"}
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_link_into_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "x")
    with pytest.raises(LimelensError, match=r"link: cannot be written: .*/gone is no folder"):
        writable_file(tmp_path / "link")
