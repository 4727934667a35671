"""Says what is logged, such as logins at the guard's page, like every other message."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_NAMES: Final = {"limelens": logging.WARNING, "limelens.watch.console": logging.INFO}


class _Saying(logging.Handler):
    def __init__(self, say: Callable[[str], object]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(self.format(record))


@contextmanager
def page_log(say: Callable[[str], object]) -> Iterator[None]:
    """Within the context, `say` gets what the page logs, and warnings of everything else."""
    handler = _Saying(say)
    loggers = [(logging.getLogger(name), level) for name, level in _NAMES.items()]
    before = [(logger, logger.level, logger.propagate) for logger, _ in loggers]
    for logger, level in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
