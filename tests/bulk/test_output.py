from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.bulk.sizes import SizeWork, write_image

from limelens.bulk.output import STATE, OutputError, open_output, read_written
from limelens.bulk.part import part_name, write_part
from limelens.bulk.sources import Item, Place, open_source

MADE_BY = {"command": "sizes", "threshold": "0.5"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_image(tmp_path / "images" / "0.png")
    return tmp_path / "images"


def opened(folder: Path, images: Path, work: str = "w", restart: bool = False, **made: str) -> int:
    """Opens the output as a run does; its number."""
    source = open_source(str(images))
    with open_output(folder, source, work, {**MADE_BY, **made}, restart=restart) as output:
        return output.run


def write(folder: Path, number: int, *names: str) -> Path:
    path = folder / part_name(1, number)
    items = [Item(name, name.encode(), Place.FILE) for name in names]
    rows = [{"path": name} for name in names]
    write_part(path, folder / "beside", items, rows, SizeWork().schema)
    return path


def test_runs_of_the_same_work_are_numbered(tmp_path: Path, images: Path) -> None:
    assert [opened(tmp_path / "out", images) for _ in range(3)] == [1, 2, 3]


def test_other_work_is_refused_and_the_message_names_the_difference(
    tmp_path: Path, images: Path
) -> None:
    opened(tmp_path / "out", images)
    with pytest.raises(OutputError, match=r"--threshold was 0\.5 and is 0\.9; name another --out"):
        opened(tmp_path / "out", images, "other", threshold="0.9")
    with pytest.raises(OutputError, match="its content"):
        opened(tmp_path / "out", images, "other")


def test_another_input_is_refused(tmp_path: Path, images: Path) -> None:
    opened(tmp_path / "out", images)
    write_image(tmp_path / "others" / "0.png")
    with pytest.raises(OutputError, match="of another input: path was"):
        opened(tmp_path / "out", tmp_path / "others")


def test_a_table_that_changed_is_refused_and_a_new_one_is_not(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    write(tables, 0, "a.png")
    (tables / part_name(1, 0)).rename(tables / "a.parquet")
    opened(tmp_path / "out", tables)
    write(tables, 0, "a.png", "b.png")
    (tables / part_name(1, 0)).rename(tables / "b.parquet")
    opened(tmp_path / "out", tables)
    os.utime(tables / "a.parquet", (1, 1))
    with pytest.raises(OutputError, match=r"the input has changed since: a\.parquet"):
        opened(tmp_path / "out", tables)


def test_a_table_of_any_earlier_run_must_not_change(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    for number, name in enumerate(("a", "b")):
        write(tables, number, f"{name}.png").rename(tables / f"{name}.parquet")
        opened(tmp_path / "out", tables / f"{name}.parquet")
    os.utime(tables / "a.parquet", (1, 1))
    with pytest.raises(OutputError, match=r"the input has changed since: a\.parquet"):
        opened(tmp_path / "out", tables)


def test_a_folder_of_somebody_else_is_left_alone(images: Path) -> None:
    with pytest.raises(OutputError, match="is not empty"):
        opened(images, images)
    assert [path.name for path in images.iterdir()] == ["0.png"]


def test_a_second_run_at_once_is_refused(tmp_path: Path, images: Path) -> None:
    source = open_source(str(images))
    with (
        open_output(tmp_path / "out", source, "w", MADE_BY),
        pytest.raises(OutputError, match="another limelens bulk is writing there"),
    ):
        opened(tmp_path / "out", images)
    opened(tmp_path / "out", images)


def test_what_a_killed_run_left_is_out_of_its_workers_reach(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    source = open_source(str(images))
    with ExitStack() as killed:
        before = killed.enter_context(open_output(out, source, "w", MADE_BY))
        half = before.staging / "half"
        half.write_bytes(b"half")
        # A killed process gives up its lock and nothing else.
        (out / STATE / "lock").unlink()
        with open_output(out, source, "w", MADE_BY) as output:
            assert list(output.staging.iterdir()) == []
            with pytest.raises(FileNotFoundError):
                half.replace(out / part_name(before.run, 0))
        assert sorted(path.name for path in (out / STATE).iterdir()) == ["lock", "manifest.json"]


def test_restart_removes_the_parts_and_nothing_else(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    opened(out, images)
    part = write(out, 0, "a.png")
    (out / "notes.txt").write_text("mine")
    opened(out, images, "other", restart=True)
    assert not part.exists()
    assert (out / "notes.txt").exists()
    assert json.loads((out / STATE / "manifest.json").read_text())["work"] == "other"


def test_a_damaged_part_is_done_again(tmp_path: Path) -> None:
    whole, torn = write(tmp_path, 0, "a.png"), write(tmp_path, 1, "b.png")
    torn.write_bytes(torn.read_bytes()[:-20])
    assert len(read_written(tmp_path).digests) == 1
    assert [path.name for path in tmp_path.iterdir()] == [whole.name]


def test_a_part_whose_footer_is_damaged_is_done_again(tmp_path: Path) -> None:
    part = write(tmp_path, 0, "a.png")
    data = bytearray(part.read_bytes())
    data[-30:-10] = b"\xff" * 20
    part.write_bytes(data)
    assert len(read_written(tmp_path).digests) == 0


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 1}', '{"format": 1, "input": [], "runs": "1"}']
)
def test_a_damaged_manifest_is_told(tmp_path: Path, images: Path, content: str) -> None:
    out = tmp_path / "out"
    opened(out, images)
    (out / STATE / "manifest.json").write_text(content)
    with pytest.raises(OutputError, match="cannot be read; name another --out"):
        opened(out, images)


def test_an_output_within_its_input_is_no_part_of_it(images: Path) -> None:
    opened(images / "out", images)
    assert list(open_source(str(images)).chunks(9)) == [
        [Item("0.png", b"0.png", Place.FILE, bytes(images / "0.png"))]
    ]


def test_an_image_in_two_parts_is_told(tmp_path: Path) -> None:
    write(tmp_path, 0, "a.png", "b.png")
    write(tmp_path, 1, "b.png")
    with pytest.raises(OutputError, match="1 images are there twice"):
        read_written(tmp_path)


def test_parts_are_one_table_for_whoever_reads_the_folder(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    opened(out, images)
    write(out, 0, "a.png")
    write(out, 1, "b.png", "c.png")
    assert pq.read_table(out)["path"].to_pylist() == ["a.png", "b.png", "c.png"]
    assert np.all(np.diff(read_written(out).digests.astype(object)) > 0)
