"""The client: what it needs, what it refuses, how it fails."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.waiting import until

from limelens.serve import Client
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    LimelensError,
    UnavailableError,
)

HEAVY = ("onnxruntime", "onnx", "skimage", "torch", "torchvision", "scipy", "sklearn")
RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)


@pytest.mark.parametrize(
    "code",
    [
        "import limelens.serve; from limelens.serve import Client",
        "from limelens.serve import Client; Client('127.0.0.1:1').close()",
        "from limelens.serve import Region, LimelensError",
        "import limelens.serve.decisions.decision, limelens.serve.decisions.smoothing",
        "import limelens.serve.image",
    ],
)
def test_the_client_imports_nothing_heavy(code: str) -> None:
    check = f"import sys; print(sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {check}"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_the_server_imports_neither_torch_nor_training() -> None:
    code = (
        "import sys, limelens.serve.rpc.server; "
        "heavy = ('torch', 'skimage', 'scipy', 'sklearn', 'matplotlib', 'jinja2'); "
        "print([m for m in sys.modules if m.split('.')[0] in heavy "
        "or m.startswith(('limelens.train', 'limelens.cli'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_root_hides_the_others() -> None:
    top = Path(__file__).parents[3]
    assert not list(top.glob("*/limelens/__init__.py"))


def test_an_unreachable_server_is_an_error_of_limelens() -> None:
    with Client("127.0.0.1:1", timeout_s=60) as client, pytest.raises(UnavailableError):
        client.classify(RED)


def test_the_deadline_of_a_call_overrides_the_clients() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises((ExpiredError, UnavailableError)):
        client.models(timeout_s=0.01)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4), np.uint8), r"images\[0\]: uint8 \(4, 4\); expected uint8 \(H, W, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
    ],
)
def test_arrays_that_are_not_images_are_refused_before_sending(image: Any, words: str) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequestError, match=words):
        client.classify([image])


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(FileNotFoundError):
        client.classify(tmp_path / "nothing.jpg")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"segmentation": "voronoi"}, "'voronoi'; expected one of quickshift, slic"),
        ({"distance": "unspecified"}, "expected one of cosine, euclidean"),
        ({"hide": (1, 2)}, "expected 'mean', 'blur', 'shuffle', 'references' or"),
        ({"hide": (1, 2, 300)}, "expected 'mean', 'blur', 'shuffle', 'references' or"),
        ({"hide": "nothing"}, "expected 'mean', 'blur', 'shuffle', 'references' or"),
        ({"segmentation_options": {"depth": 1}}, r"\['depth'\]; expected some of compactness"),
        ({"segments": np.zeros(4, int)}, r"expected \(H, W\) ids"),
        ({"segments": np.full((2, 2), -1)}, r"expected \(H, W\) ids"),
        ({"renderings": ["photo"]}, "'photo'; expected one of overlay"),
    ],
)
def test_unknown_words_are_refused(settings: dict[str, Any], words: str) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequestError, match=words):
        client.explain(RED, **settings)


def test_a_server_that_comes_up_late_is_found(start_server: Callable[..., Any]) -> None:
    server = start_server()
    address = server.address
    with Client(address, timeout_s=60) as client:
        assert client.classify(RED)[0].label == "red"
        server.stop()
        with pytest.raises(LimelensError):
            client.classify(RED)

        def is_found() -> bool:
            with contextlib.suppress(LimelensError):
                return client.classify(RED)[0].label == "red"
            return False

        start_server(listen=address)
        until(is_found)
