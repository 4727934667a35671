"""A search for images that cost a server time or memory: the same ones in a test run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from fuzz.decode_cost import Cost, search
from fuzz.effort import is_long, seconds

_USUAL = 40
"""Images in a test run, which end before its seconds do on any machine."""


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are Linux's")
def test_a_search_finds_no_image_that_costs_too_much(tmp_path: Path) -> None:
    most = None if is_long() else _USUAL
    worst = search(max(60, seconds()), 1, tmp_path, most=most)
    assert worst
    assert not {name: cost.broken for name, cost in worst.items() if cost.broken}


def test_a_costly_image_is_distinguished_from_others() -> None:
    usual: dict[str, Any] = {"look_s": 0.001, "is_quick": True, "read_s": 0.02, "memory_mb": 5.0}
    assert not Cost(**usual, was_read=True, allowed_s=0.2).broken
    for changes in ({"look_s": 0.1}, {"read_s": 0.3}, {"memory_mb": 400.0}):
        assert Cost(**{**usual, **changes}, was_read=False, allowed_s=0.2).broken
