"""When make counts an environment as installed, and which ones it leaves alone. Nothing is
downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with an environment into which nothing was installed."""
    folder = tmp_path / "one"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    return subprocess.run(
        ["make", "ACCEL=cpu", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def stamp(folder: Path) -> Path:
    """The file by which make knows that everything is installed."""
    printed = make(folder, "-pnq", "help").stdout
    (line,) = (one for one in printed.splitlines() if one.startswith("ALL := "))
    return folder / line.removeprefix("ALL := ")


def is_installed(folder: Path) -> bool:
    return make(folder, "-q", "install").returncode == 0


def test_checksums_cover_contents_and_not_times(checkout: Path) -> None:
    assert not is_installed(checkout)
    stamp(checkout).touch()
    assert is_installed(checkout)
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        os.utime(checkout / name)
    assert is_installed(checkout)
    with (checkout / "constraints.txt").open("a") as file:
        file.write("# another line\n")
    assert not is_installed(checkout)


def test_an_environment_from_another_path_does_not_count_as_installed(
    checkout: Path,
) -> None:
    stamp(checkout).touch()
    moved = checkout.rename(checkout.with_name("two"))
    assert not is_installed(moved)


@pytest.mark.parametrize("by", ["record", "editable install"])
def test_the_linked_environment_of_another_checkout_is_left_alone(checkout: Path, by: str) -> None:
    if by == "record":
        (checkout / ".venv" / ".checkout").write_text(f"{checkout}\n")
    else:
        packages = checkout / ".venv" / "lib" / "python3.11" / "site-packages"
        packages.mkdir(parents=True)
        (packages / "_editable_impl_limelens.pth").write_text(f"{checkout}/train\n{checkout}/serve")
    other = checkout.with_name("other")
    shutil.copytree(checkout, other, ignore=shutil.ignore_patterns(".venv"))
    (other / ".venv").symlink_to(checkout / ".venv")
    before = sorted((checkout / ".venv").rglob("*"))
    refused = make(other, "install")
    assert refused.returncode != 0
    assert f"belongs to the checkout {checkout}" in refused.stdout
    assert sorted((checkout / ".venv").rglob("*")) == before
