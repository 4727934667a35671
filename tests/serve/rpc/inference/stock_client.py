"""Calls made with the stock tritonclient, in a process of its own, line by line.

One process cannot hold the stock client's messages and the server's: they bear the same names.
Each line of stdin is JSON, an address and the body of a function of `client`; each line of stdout
what it returned, or the status and the message that it failed with.
"""

from __future__ import annotations

import io
import json
import queue
import sys
import textwrap
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException


def pixels(*colours: tuple[int, int, int], size: int = 32) -> np.ndarray:
    """One image of each colour."""
    return np.stack([np.full((size, size, 3), colour, np.uint8) for colour in colours])


def encoded(*images: np.ndarray) -> np.ndarray:
    """Images as PNG files."""
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    return np.array(files, dtype=object)


def tensor(values: np.ndarray, name: str = "images") -> Any:
    """An input that is ready to be sent."""
    datatype = {"u": "UINT8", "O": "BYTES", "f": "FP32"}[values.dtype.kind]
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def wanted(name: str, top: int = 0) -> Any:
    """An output that is asked for."""
    return triton.InferRequestedOutput(name, class_count=top)


def numbers(result: Any, name: str = "probabilities") -> Any:
    """An output as lists."""
    return result.as_numpy(name).tolist()


def texts(result: Any, name: str = "probabilities") -> Any:
    """An output of bytes as lists of text."""
    return [[text.decode() for text in row] for row in result.as_numpy(name)]


def main() -> None:
    for line in sys.stdin:
        if not line.strip():  # the end of the input may never come: others hold it open too
            return
        request = json.loads(line)
        scope = {
            **globals(),
            "ADDRESS": request["address"],
            "RED": (255, 0, 0),
            "GREEN": (0, 255, 0),
            "BLUE": (0, 0, 255),
        }
        exec("def act(client):\n" + textwrap.indent(request["code"], "    "), scope)
        answer: dict[str, Any] = {}
        with triton.InferenceServerClient(request["address"]) as client:
            try:
                answer["returned"] = scope["act"](client)
            except InferenceServerException as error:
                answer["failed"] = [error.status(), error.message()]
        print(json.dumps(answer), flush=True)


__all__ = ["encoded", "numbers", "pixels", "queue", "tensor", "texts", "wanted"]

if __name__ == "__main__":
    main()
