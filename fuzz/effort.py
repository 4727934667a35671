"""How long to fuzz: a few seconds with fixed input in a test run, else as long as requested.

It knows one environment variable and Hypothesis' settings.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, Phase, settings

_VARIABLE: Final = "LIMELENS_FUZZ_S"
_USUAL_S: Final = 10


def seconds() -> int:
    """How long the image reader is fuzzed, and about how long the requests are."""
    return int(os.environ.get(_VARIABLE) or _USUAL_S)


def is_long() -> bool:
    """Whether more than a test run was requested."""
    return bool(os.environ.get(_VARIABLE))


def examples(number: int) -> settings:
    """Settings of one property.

    Args:
        number: Examples in a test run, always the same. If more time was requested there are more,
            different ones each time.

    Returns:
        A decorator.
    """
    factor = max(1.0, seconds() / _USUAL_S)
    return settings(
        max_examples=round(number * factor),
        derandomize=not is_long(),
        database=None,
        deadline=None,
        print_blob=True,
        # Without Hypothesis' explain phase, which takes minutes if each example is a call.
        phases=[Phase.generate, Phase.shrink],
        # One server answers all examples of a property.
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )
