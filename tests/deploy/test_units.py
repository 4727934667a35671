"""The systemd units: what they promise, and what systemd's own tools find. Nothing is started."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.deploy.beginning import refusal

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(path.name for path in DEPLOY.glob("*.service"))
INSTANCE = "front"
OF_ITS_OWN = {
    "Type", "NotifyAccess", "ExecStart", "ExecReload", "WatchdogSec", "LoadCredential",
    "StateDirectory", "StateDirectoryMode", "TimeoutStartSec",
    "EnvironmentFile", "Restart",
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


def example_of(unit: str, name: str) -> dict[str, str]:
    """The variables of the file that a unit's first comment shows, as systemd would read it."""
    text = (DEPLOY / unit).read_text().partition("[Unit]")[0]
    _, _, lines = text.partition(f"/{name}:\n")
    found = {}
    for line in lines.splitlines():
        key, is_set, value = line.removeprefix("#   ").partition("=")
        if is_set and key.isupper():
            found[key] = value
        elif found and line.startswith("#   --"):
            found["OPTIONS"] += " " + line.removeprefix("#   ")
    return found


def test_the_camera_of_the_example_is_watched_with_options_that_exist(tmp_path: Path) -> None:
    found = service("limelens-camera@.service")
    assert found["EnvironmentFile"] == f"/etc/limelens/camera/{INSTANCE}.env"
    example = example_of("limelens-camera@.service", "hall.env")
    assert example.keys() == {"CAMERA", "SERVER", "OPTIONS"}
    ca = tmp_path / "ca.pem"
    ca.write_text("no certificate")
    (tmp_path / "token").write_text("a-token\n")
    secrets = (
        f"/run/credentials/limelens-camera@hall.service/{found['LoadCredential'].split(':')[0]}_"
    )
    assert secrets in example["OPTIONS"]
    words = found["ExecStart"].replace(
        "$OPTIONS", example["OPTIONS"].replace(secrets, f"{tmp_path}/")
    )
    words = words.replace("/etc/limelens/", f"{tmp_path}/").replace("${SERVER}", "127.0.0.1:9")
    _, *arguments = shlex.split(words.replace("${CAMERA}", example["CAMERA"]))
    said = refusal(arguments)
    assert "127.0.0.1:9" in said or "certificate" in said


def test_deploying_names_every_unit() -> None:
    page = (DEPLOY.parent / "docs" / "deploying.md").read_text()
    assert [name for name in UNITS if name not in page] == []


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
