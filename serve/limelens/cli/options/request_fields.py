"""Errors about a field of a request, in the words of the options that were given for it.

Servers and models know fields; whoever typed `--contrast` never saw `contrasts[0].against`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from limelens.serve.errors import InvalidRequestError, LimelensError

_BEFORE: Final = re.compile(r"^(?:config\.)?(?:explain_on_change\.)?(?:options\.)?")
_OPTIONS: Final = {
    "address": "--server",
    "contrasts": "--contrast",
    "faces.detect_every": "--detect-every",
    "faces.max_faces": "--max-faces",
    "faces.max_unseen_ms": "--max-unseen-s",
    "faces.min_size_px": "--min-face",
    "faces.threshold": "--face-threshold",
    "hide.num_fills": "--num-fills",
    "labels": "--label",
    "region_of_interest": "--region",
    "segmentation.method": "--segmentation",
    "segmentation.num_segments": "--num-segments",
    "segmentation.segments_png": "--segments-in",
    "max_decision_age_ms": "--max-decision-age-s",
}
"""Where an option is not called as its field, or the part of it before or after the dot."""
_WORDS: Final = {"tls=Tls(…)": "--tls or --ca", "insecure_token=True": "--insecure-token"}
_FIELD: Final = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")
_OF_LABELS: Final = ("--label", "--contrast")


@contextmanager
def naming_options(options: Collection[str]) -> Iterator[None]:
    """Names a command's options, in place of fields, in errors about them.

    Args:
        options: Those of the command, such as `--label`.
    """
    try:
        yield
    except InvalidRequestError as error:
        name = option_of(error.field, options) or error.field
        words = error.description
        if name not in _OF_LABELS:  # which quote whatever labels are called
            words = _in_options(words, options)
        raise LimelensError(f"{name}: {words}" if name else words) from error


def option_of(field: str, options: Collection[str]) -> str | None:
    """The option that a field came from; None if the command has none."""
    field = _BEFORE.sub("", re.sub(r"\[\d+\]", "", field))
    if field.startswith("image") and not field.endswith(".region_of_interest"):
        return None
    parts = field.split(".")
    for name in (field, parts[0], parts[-1]):
        option = _OPTIONS.get(name, _option(name))
        if option in options:
            return option
    return None


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _in_options(text: str, options: Collection[str]) -> str:
    for word, option in _WORDS.items():
        text = text.replace(word, option)
    return _FIELD.sub(
        lambda found: _option(found[0]) if _option(found[0]) in options else found[0], text
    )
