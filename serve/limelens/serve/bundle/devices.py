"""The names of devices, as operators and onnxruntime write them, and whether a driver is here.

It knows nothing of models, and does not load onnxruntime.
"""

from __future__ import annotations

import ctypes
import re
import sys
from typing import Final

from limelens.serve.errors import InvalidRequestError, ProviderError

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TF32: Final = CUDA + "+TF32"
"""Key of a golden vector's tolerance for CUDA with TF32."""
DEVICE_PROCESS: Final = "process:"
"""Begins the name of a device that another process owns; the address of that process follows."""
_LISTED: Final = re.compile(r"cuda:(\d{1,3}(?:,\d{1,3})*)")


def parse_devices(text: str) -> tuple[str, ...]:
    """Reads the option `--device`: auto, cpu, cuda, or `cuda:` and the numbers of GPUs.

    Returns:
        The devices, one for a process: one of the first three words, or `cuda:N` for each GPU.
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


def gpu_index(device: str) -> int | None:
    """The number of a GPU, from 0; None for `cpu`."""
    if device in ("auto", "cuda"):
        return 0
    if device == "cpu":
        return None
    kind, _, number = device.partition(":")
    if kind == "cuda" and number.isascii() and number.isdecimal() and len(number) <= 3:
        return int(number)
    raise InvalidRequestError("device", f"{device!r}; expected auto, cpu, cuda or cuda:K")


def missing_driver() -> str:
    """Why NVIDIA's driver cannot be used; empty if it can, or if this is not Linux."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            return f"no NVIDIA driver ({error}); a container gets one by --gpus all"
    return ""


def check_driver(device: str) -> None:
    """Checks that there is a driver if CUDA is asked for, before anything is loaded.

    Raises:
        ProviderError: There is none.
    """
    if device.startswith("cuda") and (reason := missing_driver()):
        raise no_cuda(reason)


def no_cuda(reason: str) -> ProviderError:
    """The error of a device that was asked for and is not there."""
    return ProviderError(f"CUDA was asked for and cannot be used: {reason}")
