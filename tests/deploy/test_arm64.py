"""Whether an arm64 machine with Debian 12 finds a wheel of everything, and compiles nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLIBC = 36
"""Debian 12 has glibc 2.36."""
EXTRAS = ("serve-cpu", "explain", "similar", "console", "tracing", "faces", "signing")


def needed(extra: str) -> list[str]:
    """What an extra asks for; those of limelens itself are resolved."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = []
    for one in asked["optional-dependencies"][extra]:
        own = re.fullmatch(r"limelens\[(.+)]", one)
        found += needed(own[1]) if own else [one]
    return found


@pytest.mark.slow
def test_every_dependency_of_a_box_has_a_wheel_for_arm64(tmp_path: Path) -> None:
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(GLIBC, 16, -1)]
    report = tmp_path / "report.json"
    found = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"),
            *("--only-binary=:all:", "--python-version", "3.11", "--target", tmp_path / "none"),
            *(f"--platform={one}" for one in (*platforms, "manylinux2014_aarch64")),
            *("--constraint", ROOT / "constraints.txt", "--report", report, "--quiet"),
            *(base + [one for extra in EXTRAS for one in needed(extra)]),
        ],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if found.returncode and "connection" in found.stderr.lower():
        pytest.skip("the package index cannot be reached")
    assert found.returncode == 0, found.stderr
    urls = [one["download_info"]["url"] for one in json.loads(report.read_text())["install"]]
    assert len(urls) > len(base)
    assert [url for url in urls if not url.endswith(("aarch64.whl", "-none-any.whl"))] == []
