"""How long to try: a few seconds and always the same in a test run, else as long as is wanted.

It knows one environment variable and Hypothesis' settings.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, Phase, settings

_VARIABLE: Final = "LIMELENS_FUZZ_S"
_USUAL_S: Final = 20


def seconds() -> int:
    """How long the image reader is fuzzed, and about how long the requests are."""
    return int(os.environ.get(_VARIABLE) or _USUAL_S)


def is_long() -> bool:
    """Whether somebody asked for more than a test run does."""
    return bool(os.environ.get(_VARIABLE))


def examples(number: int) -> settings:
    """Settings of one property.

    Args:
        number: Examples in a test run, which are always the same ones. Where somebody asked for
            more time there are more, and others each time.

    Returns:
        To be used as a decorator.
    """
    factor = max(1.0, seconds() / _USUAL_S)
    return settings(
        max_examples=round(number * factor),
        derandomize=not is_long(),
        database=None,
        deadline=None,
        print_blob=True,
        # Not Hypothesis' explaining, which takes minutes where each example is a call.
        phases=[Phase.generate, Phase.shrink],
        # One server answers all examples of a property.
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )
