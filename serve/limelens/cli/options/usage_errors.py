"""Errors of the work that are wrong usage of one parameter: exit code 2 in place of 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from limelens.serve.errors import LimelensError


@contextmanager
def usage_of(parameter: str, *kinds: type[LimelensError]) -> Iterator[None]:
    """Reports errors of some kinds as wrong values of a parameter.

    Args:
        parameter: As people type it, such as `--out` or `RUN`.
        kinds: Classes of errors; others pass.
    """
    try:
        yield
    except kinds as error:
        raise typer.BadParameter(str(error), param_hint=f"'{parameter}'") from error
