"""The page of licences, against the packages of this environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_names_what_a_server_and_explanations_require() -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "deploy" / "licences.py"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line for line in printed.splitlines()[2:] if line]
    assert len(rows) > 20
    page = (ROOT / "docs" / "licences.md").read_text()
    _, _, packages = page.partition("## Python packages")
    packages, _, debian = packages.partition("## Debian packages")
    assert rows == [line for line in packages.splitlines() if line.startswith("| ")][2:]
    assert "| libc6 |" in debian
