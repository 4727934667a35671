"""Says what the guard's page logs, such as logins, like every other message."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_NAME: Final = "limelens.watch.console"


class _Saying(logging.Handler):
    def __init__(self, say: Callable[[str], object]) -> None:
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


@contextmanager
def page_log(say: Callable[[str], object]) -> Iterator[None]:
    """Within the context, `say` gets each line that the page logs."""
    logger = logging.getLogger(_NAME)
    handler, level, propagate = _Saying(say), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
