"""The framework of the measurements of a machine; no test asserts a speed."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.device.__main__ import add_options
from benchmarks.device.cpu import counts_of, layouts_of
from benchmarks.device.isolated import cores, isolated
from benchmarks.device.report import Report, Row
from benchmarks.device.setting import Layout, Setting, known_layouts, serving

from limelens.serve.errors import LimelensError


def _work(value: int) -> int:
    if value < 0:
        raise ValueError(f"{value} is below zero")
    if value > 9:
        os._exit(3)
    return value + 1


def _wait() -> None:
    import time

    time.sleep(60)


@pytest.mark.parametrize(
    ("value", "more_is_better", "result"),
    [
        (1.0, False, "wanted"),
        (1.5, False, "required"),
        (2.5, False, "missed"),
        (2.5, True, "wanted"),
        (0.5, True, "missed"),
    ],
)
def test_a_metric_is_compared_with_its_bounds(
    value: float, more_is_better: bool, result: str
) -> None:
    required, wanted = (1.0, 2.0) if more_is_better else (2.0, 1.0)
    for bounded in ("ratio", "measured"):
        row = Row("x", bounded=bounded, required=required, wanted=wanted)
        row = Row(**{**vars(row), bounded: value, "more_is_better": more_is_better})
        assert row.result == result
    assert Row("x", measured=1.0).result == ""


def test_a_failed_part_is_reported_beside_the_metrics_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "metrics.json"
    report = Report({"cores": 2}, file)
    report.add(Row("first", 12.5, "ms", ratio=1.25, required=2.0))
    with report.surviving("second"):
        raise LimelensError("no such device")
    report.add(Row("third", 1.0))
    report.print_table()
    found = json.loads(file.read_text())
    assert [row["what"] for row in found["rows"]] == ["first", "third"]
    assert found["rows"][0]["verdict"] == "required"
    assert found["failures"] == {"second": "no such device"}
    assert "not measured: second: no such device" in capsys.readouterr().out


def test_work_in_its_own_process_gives_its_result_or_its_failure() -> None:
    assert isolated(60, _work, 4) == 5
    with pytest.raises(LimelensError, match="-1 is below zero"):
        isolated(60, _work, -1)
    with pytest.raises(LimelensError, match="exit 3"):
        isolated(60, _work, 10)
    with pytest.raises(LimelensError, match="not done within"):
        isolated(0.5, _wait)


def test_a_server_gets_a_quarter_a_half_and_three_quarters_of_the_cores() -> None:
    assert counts_of(16) == [4, 8, 12]
    assert counts_of(4) == [1, 2, 3]
    assert counts_of(2) == counts_of(1) == [1]
    layouts = [Layout(), Layout(1), Layout(4), Layout(8)]
    assert layouts_of(4, layouts) == layouts[:3]
    assert layouts_of(4, layouts[2:]) == [Layout(), Layout(4)]


def test_layouts_are_compared_by_their_options() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    found = parser.parse_args(["--processes", "default,4,4+device,default+device"]).processes
    assert [one.options for one in found] == [
        (),
        ("--processes", "4"),
        ("--processes", "4", "--device-process"),
        ("--device-process",),
    ]
    assert known_layouts(found, Report({})) == tuple(found)
    for wrong in ("0", "-1", "4+gpu", "+device", "x"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--processes", wrong])


def test_the_end_of_a_servers_log_is_printed_when_it_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    setting = Setting("cpu", 0.1, (Layout(),), Report({}))
    models = tmp_path / "models"
    models.mkdir()
    with pytest.raises(LimelensError, match="did not start"), serving(setting, models):
        pass
    assert "no models in it" in capsys.readouterr().out


@pytest.mark.slow
def test_the_cpu_half_prints_its_metrics(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    command = [sys.executable, "-m", "benchmarks.cores", "--seconds", "0.5", "--json", str(file)]
    subprocess.run([*command, "--processes", "default"], check=True, timeout=600)
    found = json.loads(file.read_text())
    assert found["failures"] == {}
    assert len(found["rows"]) == len(counts_of(len(cores())))
    assert all(row["measured"] > 0 and row["floor"] > 0 for row in found["rows"])
