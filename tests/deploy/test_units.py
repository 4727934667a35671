"""The systemd units: what they promise, and what systemd's own tools find. Nothing is started."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(path.name for path in DEPLOY.glob("*.service"))
INSTANCE = "front"
OF_ITS_OWN = {
    "Type", "NotifyAccess", "ExecStart", "ExecReload", "WatchdogSec", "LoadCredential",
    "StateDirectory", "StateDirectoryMode", "TimeoutStartSec",
}  # fmt: skip
BINARY = "/opt/limelens/bin/limelens"
needs_tools = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="it needs systemd-analyze"
)


def service(name: str) -> dict[str, str]:
    """The section [Service] of a unit, for one instance."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    text = (DEPLOY / name).read_text()
    parser.read_string(text.replace("\\\n", " ").replace("%i", INSTANCE))
    return dict(parser["Service"])


@pytest.mark.parametrize("name", UNITS)
def test_every_unit_is_hardened_as_the_servers_is(name: str) -> None:
    ours, theirs = service(name), service("limelens.service")
    assert {key: value for key, value in ours.items() if key not in OF_ITS_OWN} == {
        key: value for key, value in theirs.items() if key not in OF_ITS_OWN
    }
    if "StateDirectory" in ours:
        assert ours["StateDirectoryMode"] == "0700"


@pytest.mark.parametrize("name", UNITS)
def test_every_unit_waits_until_it_is_ready_and_is_watched(name: str) -> None:
    found = service(name)
    # No child may speak for it.
    assert (found["Type"], found["NotifyAccess"]) == ("notify", "main")
    assert 0 < float(found["WatchdogSec"]) <= 60
    assert found.get("ExecReload", "kill -HUP $MAINPID") == "kill -HUP $MAINPID"


@needs_tools
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(name: str, tmp_path: Path) -> None:
    there = tmp_path / "bin" / "limelens"
    there.parent.mkdir()
    there.write_text("#!/bin/sh\n")
    there.chmod(0o755)
    copy = tmp_path / name
    copy.write_text((DEPLOY / name).read_text().replace(BINARY, str(there)))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy],
        capture_output=True,
        text=True,
        check=False,
    )
    # It reads this machine's other units too, and says what is wrong with those.
    assert "limelens" not in found.stderr


@needs_tools
def test_verify_would_find_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "limelens.service"
    wrong.write_text((DEPLOY / "limelens.service").read_text().replace("WatchdogSec", "WatchSec"))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", wrong],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "'WatchSec'" in found.stderr


@needs_tools
@pytest.mark.parametrize("name", UNITS)
def test_little_of_the_machine_is_exposed_to_a_unit(name: str) -> None:
    found = subprocess.run(
        [
            *("systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager"),
            DEPLOY / name,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    # Of 100, where 100 is everything exposed.
    assert found.returncode == 0, found.stdout[-500:] + found.stderr
