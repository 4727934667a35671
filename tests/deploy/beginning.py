"""Starts a command whose files are not here, to see that it knows all of its options."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


def refusal(arguments: Sequence[str]) -> str:
    """Why limelens does not go on with these arguments, which must not be their usage."""
    found = subprocess.run(
        [sys.executable, "-m", "limelens.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 1, found.stderr  # 2 were an option that there is not
    return found.stderr
