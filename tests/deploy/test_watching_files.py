"""What the files say that run `limelens watch` as a service. Nothing here starts a service."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.deploy.test_units import service

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "limelens-watch@.service"
EXAMPLE = DEPLOY / "door.toml"
DOOR = "front"


def texts(value: Any) -> Iterator[str]:
    """Every text in a TOML document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts(list(value.values()))
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)


def test_the_unit_watches_the_file_of_its_door_and_has_time_to_deliver() -> None:
    found = service(UNIT.name)
    words = shlex.split(found["ExecStart"])
    drain_s = float(words[words.index("--drain-s") + 1])
    assert float(found["TimeoutStopSec"]) > drain_s
    assert words[1:3] == ["watch", f"/etc/limelens/watch/{DOOR}.toml"]


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
    found = service(UNIT.name)
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
