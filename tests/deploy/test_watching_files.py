"""What the files say that run `limelens watch` as a service. Nothing here starts a service."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "limelens-watch@.service"
EXAMPLE = DEPLOY / "door.toml"
DOOR = "front"
OF_ITS_OWN = {
    "Type", "NotifyAccess", "ExecStart", "ExecReload", "WatchdogSec", "LoadCredential",
    "StateDirectory", "StateDirectoryMode",
}  # fmt: skip


def service(path: Path) -> dict[str, str]:
    """The section [Service] of a unit, for one door."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text().replace("\\\n", " ").replace("%i", DOOR))
    return dict(parser["Service"])


def texts(value: Any) -> Iterator[str]:
    """Every text in a TOML document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts(list(value.values()))
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)


def test_the_unit_of_cameras_is_hardened_as_the_servers_is() -> None:
    ours, theirs = service(UNIT), service(DEPLOY / "limelens.service")
    assert {key: value for key, value in ours.items() if key not in OF_ITS_OWN} == {
        key: value for key, value in theirs.items() if key not in OF_ITS_OWN
    }
    assert ours["StateDirectoryMode"] == "0700"


def test_the_unit_waits_until_it_is_ready_and_is_watched() -> None:
    found = service(UNIT)
    assert (found["Type"], found["NotifyAccess"]) == ("notify", "main")
    assert 0 < float(found["WatchdogSec"]) <= 60
    assert found["ExecReload"] == "kill -HUP $MAINPID"
    words = shlex.split(found["ExecStart"])
    drain_s = float(words[words.index("--drain-s") + 1])
    assert float(found["TimeoutStopSec"]) > drain_s
    assert words[1:3] == ["watch", f"/etc/limelens/watch/{DOOR}.toml"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="it needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit() -> None:
    found = subprocess.run(
        ["systemd-analyze", "verify", UNIT], capture_output=True, text=True, check=False
    )
    reported = [line for line in found.stderr.splitlines() if "is not executable" not in line]
    assert not [line for line in reported if line.startswith("limelens-watch")], reported
    found = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    # Of 100, where 100 is everything exposed.
    assert found.returncode == 0, found.stdout[-500:] + found.stderr


def with_its_files(example: Path, folder: Path, ca: Any) -> Path:
    """The example, and beside it the files that it names."""
    text = re.sub(r'"/(?:run|etc|var)/[^"]*/', f'"{folder}/', example.read_text())
    chain, key = ca.issue("localhost")
    for name in re.findall(rf'"{folder}/([^"]+)"', text):
        content = {"ca.pem": ca.path, "tls.crt": chain, "tls.key": key}.get(name)
        # The rest is read as a line, or as a file of users, of whom there are none.
        (folder / name).write_text("# a:b\n" if content is None else content.read_text())
    (folder / "record").unlink(missing_ok=True)
    found = folder / example.name
    found.write_text(text)
    return found


def check(path: Path) -> None:
    """Lets `limelens watch` say what is wrong with a file."""
    found = subprocess.run(
        [sys.executable, "-m", "limelens.cli", "watch", path, "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert "2 cameras" in found.stdout


def test_the_example_is_a_file_that_can_be_watched(
    tmp_path: Path, authority: Callable[..., Any]
) -> None:
    check(with_its_files(EXAMPLE, tmp_path, authority("server")))


def test_the_examples_paths_are_those_that_the_unit_gives_it() -> None:
    found = service(UNIT)
    name, folder = found["LoadCredential"].split(":")
    assert folder == f"/etc/limelens/watch/{DOOR}.secrets"
    readable = (
        f"/run/credentials/limelens-watch@{DOOR}.service/{name}_",
        f"/var/lib/{found['StateDirectory']}/",
        "/etc/limelens/ca.pem",
    )
    document = tomllib.loads(EXAMPLE.read_text())
    paths = [text for text in texts(document) if text.startswith("/")]
    assert len(paths) >= 3
    assert [path for path in paths if not path.startswith(readable)] == []


def test_deploying_names_every_file_of_a_door() -> None:
    page = (DEPLOY.parent / "docs" / "deploying.md").read_text()
    secrets = set(re.findall(r"secrets_(\w+)", EXAMPLE.read_text())) - {"NAME"}
    for name in (UNIT.name, EXAMPLE.name, *(f"{DOOR}.secrets/{one}" for one in sorted(secrets))):
        assert name in page, name
