"""Which devices a server runs on, as an operator writes them: `auto`, `cpu`, `cuda`, `cuda:0,1`.

It knows the words, and nothing of what is in the machine.
"""

from __future__ import annotations

import re
from typing import Final

from limelens.serve.errors import InvalidRequestError

_LISTED: Final = re.compile(r"cuda:(\d{1,3}(?:,\d{1,3})*)")


def parse_devices(text: str) -> tuple[str, ...]:
    """The devices that are meant, each as one process is given it.

    Args:
        text: `auto`, `cpu`, `cuda`, or `cuda:` and numbers of GPUs with commas between.

    Returns:
        One of the first three words alone, or `cuda:N` for each GPU.

    Raises:
        InvalidRequestError: It is none of these, or names a GPU twice.
    """
    if text in ("auto", "cpu", "cuda"):
        return (text,)
    listed = _LISTED.fullmatch(text)
    devices = tuple(f"cuda:{int(one)}" for one in listed[1].split(",")) if listed else ()
    if not devices or len(set(devices)) != len(devices):
        raise InvalidRequestError(
            "device",
            f"{text!r}; expected auto, cpu, cuda, or GPUs by number, each once, such as cuda:1 or "
            "cuda:0,1",
        )
    return devices
