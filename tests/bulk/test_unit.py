from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.bulk.sizes import (
    KILL,
    NONE,
    RAISE,
    RUN,
    SizeWork,
    do_unit,
    part_of,
    plan_of,
    write_image,
)

from limelens.bulk.part import parts_in, read_footer, write_part
from limelens.bulk.plan import Plan, write_plan
from limelens.bulk.sources import Item, Place, Reader
from limelens.bulk.unit import PLAN, TakenOverError, Units, num_in_work
from limelens.bulk.work import BulkImage
from limelens.serve.errors import LimelensError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(10):
        write_image(tmp_path / "images" / f"{number}.png", 1 + number)
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


def rows(path: Path) -> list[Any]:
    found: list[Any] = pq.read_table(path).to_pylist()
    return found


def in_a_process(out: Path, staging: Path) -> int | None:
    """Does the unit in a process of its own; its exit code."""
    process = multiprocessing.get_context("spawn").Process(target=do_unit, args=(out, staging))
    process.start()
    process.join()
    return process.exitcode


def test_every_image_is_a_row_in_order(images: Path, out: Path, staging: Path) -> None:
    (images / "5b.png").write_bytes(b"no image")
    (images / "5c.png").symlink_to("/proc/1/mem")
    plan_of(images, staging)
    done = do_unit(out, staging)
    found = rows(part_of(out))
    assert [row["path"] for row in found] == sorted(path.name for path in images.iterdir())
    assert [row["width"] for row in found if row["width"]] == list(range(1, 11))
    assert done.num_images == 12
    assert done.errors["INVALID_IMAGE"] == 1
    assert list(staging.iterdir()) == [staging / PLAN]


def test_a_unit_whose_part_is_there_is_not_done_again(
    images: Path, out: Path, staging: Path
) -> None:
    plan_of(images, staging)
    do_unit(out, staging)
    before = part_of(out).stat().st_ino
    again = do_unit(out, staging)
    assert (again.num_images, again.seconds) == (10, 0)
    assert part_of(out).stat().st_ino == before


def test_an_image_that_kills_its_worker_is_given_up_and_the_others_have_rows(
    images: Path, out: Path, staging: Path
) -> None:
    (images / "6.png").write_bytes(KILL)
    plan_of(images, staging)
    # First in a batch, then twice alone.
    assert [in_a_process(out, staging) for _ in range(4)] == [-9, -9, -9, 0]
    found = rows(part_of(out))
    assert len(found) == 10
    assert [row["path"] for row in found if row["error"]] == ["6.png"]
    assert "the worker died 3 times on this image" in found[6]["error"]


def test_two_images_that_kill_are_both_found(images: Path, out: Path, staging: Path) -> None:
    for name in ("1.png", "2.png"):
        (images / name).write_bytes(KILL)
    plan_of(images, staging)
    codes: list[int | None] = []
    while not codes or codes[-1]:
        codes.append(in_a_process(out, staging))
        assert len(codes) < 8
    assert [row["path"] for row in rows(part_of(out)) if row["error"]] == ["1.png", "2.png"]


def test_an_image_on_which_the_model_fails_is_an_error_row(
    images: Path, out: Path, staging: Path
) -> None:
    (images / "3.png").write_bytes(RAISE)
    plan_of(images, staging)
    do_unit(out, staging)
    errors = {row["path"]: row["error"] for row in rows(part_of(out)) if row["error"]}
    assert errors == {"3.png": "RuntimeError: the model broke"}


def test_a_model_that_fails_on_every_image_ends_the_run(
    images: Path, out: Path, staging: Path
) -> None:
    for path in images.iterdir():
        path.write_bytes(RAISE)
    plan_of(images, staging)
    with pytest.raises(LimelensError, match="failed on each of 10 images: the model broke"):
        do_unit(out, staging)
    assert parts_in(out) == []


def test_a_worker_of_a_run_that_was_replaced_writes_nothing(
    images: Path, out: Path, staging: Path
) -> None:
    plan_of(images, staging)
    work = TakenOver(staging)
    units = Units(out, staging, RUN, work, work.schema, Reader())
    with pytest.raises(TakenOverError, match="another run took the output over"):
        units.do(0)
    assert list(out.iterdir()) == []


class TakenOver(SizeWork):
    """Loses the run's folder while it works."""

    def __init__(self, staging: Path) -> None:
        super().__init__()
        object.__setattr__(self, "_staging", staging)

    def __call__(self, images: Sequence[BulkImage]) -> list[Mapping[str, Any]]:
        staging: Path = self._staging  # type: ignore[attr-defined]
        if staging.exists():
            staging.rename(staging.with_name("old"))
        return super().__call__(images)


def test_the_images_of_unfinished_units_are_counted(tmp_path: Path) -> None:
    for number, begun in enumerate((5, 7)):
        note = {"begun": begun, "stop": 9, "deaths": {}}
        (tmp_path / f"{number}.note").write_text(json.dumps(note))
    (tmp_path / "torn.note").write_text("{")
    assert num_in_work(tmp_path) == 12


def test_what_is_done_is_not_planned_again(images: Path, out: Path, staging: Path) -> None:
    plan_of(images, staging, most=4)
    do_unit(out, staging, number=1)
    done = read_footer(part_of(out, 1)).digests
    done.sort()
    chunks = [Plan(staging / PLAN).unit(number) for number in range(3)]
    planned = write_plan(staging / "again", chunks, done)
    assert (planned.num_units, planned.num_images, planned.num_done) == (2, 6, 4)
    again = Plan(staging / "again")
    assert [item.name for number in range(2) for item in again.unit(number)] == [
        f"{number}.png" for number in (0, 1, 2, 3, 8, 9)
    ]


def test_a_planned_item_is_read_back_as_it_was(tmp_path: Path) -> None:
    item = Item("n\\xff", b"\xff\0", Place.PART, b"/a\xff.tar", 2**40, 7, "")
    write_plan(tmp_path / PLAN, [[item]], NONE)
    assert Plan(tmp_path / PLAN).unit(0) == [item]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_disk_is_told_with_the_file(images: Path) -> None:
    item = Item("0.png", b"0.png", Place.FILE, bytes(images / "0.png"))
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_plan(Path("/dev/full"), [[item]], np.empty(0, np.uint64))
    with pytest.raises(OSError, match=r"No space left on device: '.*whole\.parquet'"):
        write_part(
            images / "whole.parquet",
            Path("/dev/full"),
            [item],
            [{"path": "0.png"}],
            SizeWork().schema,
        )
