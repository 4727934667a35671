"""Checks of single values: each raises an error that names the argument, or returns the value.

Knows numbers, words and arrays. Does not know what the options mean.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import InvalidArgumentError


def at_least(least: int) -> Callable[[str, Any], int]:
    """Checks for an integer of at least this."""

    def valid(argument: str, value: Any) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise InvalidArgumentError(
                argument, f"{argument} is {value!r}; expected an integer"
            ) from None
        if number < least:
            raise InvalidArgumentError(
                argument, f"{argument} is {number}; expected at least {least}"
            )
        return number

    return valid


def above_zero(most: float, expected: str) -> Callable[[str, float], float]:
    """Checks for a number above 0 and at most this."""

    def valid(argument: str, value: float) -> float:
        if not 0 < value <= most:
            raise InvalidArgumentError(argument, f"{argument} is {value}; expected {expected}")
        return float(value)

    return valid


def one_of(*choices: str) -> Callable[[str, str], str]:
    """Checks for one of these words."""

    def valid(argument: str, value: str) -> str:
        if value not in choices:
            names = ", ".join(map(repr, choices))
            expected = f"one of {names}" if len(choices) > 1 else f"None or {names}"
            raise InvalidArgumentError(argument, f"{argument} is {value!r}; expected {expected}")
        return value

    return valid


def word_or_colour(*words: str) -> Callable[[str, Any], Any]:
    """Checks for one of these words, or a colour `(r, g, b)` of integers from 0 to 255."""
    names = ", ".join(map(repr, words))
    expected = f"expected {names} or three integers (r, g, b) from 0 to 255"

    def valid(argument: str, value: Any) -> Any:
        if isinstance(value, str) and value in words:
            return value
        if isinstance(value, str) or len(value) != 3:
            raise InvalidArgumentError(argument, f"{argument} is {value!r}; {expected}")
        colour = tuple(at_least(0)(argument, level) for level in value)
        if max(colour) > 255:
            raise InvalidArgumentError(argument, f"{argument} is {value!r}; {expected}")
        return colour

    return valid


def as_labels(argument: str, labels: Sequence[int]) -> tuple[int, ...]:
    """Column numbers, each once, at least one."""
    if len(labels) == 0:
        raise InvalidArgumentError(
            argument, "labels is empty; name at least one label, or leave it unset"
        )
    return tuple(dict.fromkeys(at_least(0)(argument, label) for label in labels))


def share(argument: str, value: float) -> float:
    """A number above 0 and below 1."""
    if not 0 < value < 1:
        raise InvalidArgumentError(argument, f"{argument} is {value}; expected between 0 and 1")
    return float(value)


def as_references(argument: str, value: Any) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Images and which labels each has, `(M, H, W, 3)` uint8 and `(M, C)` bool.

    Labels given as `(M,)` integers become columns, as many as the highest asks for.
    """

    def refused(message: str) -> InvalidArgumentError:
        return InvalidArgumentError(argument, f"{argument} {message}")

    try:
        images, labels = (np.asarray(one) for one in value)
    except (TypeError, ValueError):
        raise refused("is no pair; expected images and their labels") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise refused(
            f"has images of shape {images.shape} and {images.dtype}; expected (M, H, W, 3) uint8"
        )
    if labels.shape == images.shape[:1] and labels.dtype.kind in "iu" and labels.min() >= 0:
        labels = labels[:, np.newaxis] == np.arange(int(labels.max()) + 1)
    if labels.dtype != np.bool_ or labels.ndim != 2 or labels.shape[0] != images.shape[0]:
        raise refused(
            f"has labels of shape {labels.shape} and {labels.dtype}; expected a label for each of "
            f"the {images.shape[0]} images, or (M, C) bool"
        )
    return np.ascontiguousarray(images), labels
