"""The image for a GPU (ACCEL=gpu), on a machine without one.

It is several times as large as the others, so that it is built only with LIMELENS_IMAGE_GPU=1.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from tests.deploy.conftest import Build, RunImage
from tests.deploy.image_building import BuiltImage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("LIMELENS_IMAGE_GPU" not in os.environ, reason="needs LIMELENS_IMAGE_GPU=1"),
]

MOST_BYTES = 2600e6
# cuDNN loads them when they are needed.
LOADED_LATER = {
    *("libcudnn_cnn.so.9", "libcudnn_graph.so.9", "libcudnn_heuristic.so.9", "libcudnn_ops.so.9"),
    *(f"libcudnn_engines_{one}.so.9" for one in ("precompiled", "runtime_compiled", "tensor_ir")),
    *("libcudnn.so.9", "libnvrtc.so.13", "libnvJitLink.so.13"),
}

LISTING = """
import os, subprocess
from pathlib import Path
import onnxruntime

packages = Path(onnxruntime.__file__).parents[1]
provider = packages / "onnxruntime/capi/libonnxruntime_providers_cuda.so"
found = {"LD_LIBRARY_PATH": ":".join(map(str, packages.glob("nvidia/*/lib")))}
for library in (provider, *packages.glob("nvidia/*/lib/*.so*")):
    command = ["/lib64/ld-linux-x86-64.so.2", library]
    subprocess.run(command, env={**found, "LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "yes"})
"""


@pytest.fixture(scope="module")
def image(build_image: Build) -> BuiltImage:
    return build_image("limelens-gpu", "ACCEL=gpu")


def test_only_the_driver_is_missing_and_without_it_the_cpu_serves(
    image: BuiltImage, root: Path, run_image: RunImage, photo: Path
) -> None:
    assert image.size_bytes() < MOST_BYTES
    (packages,) = (root / "opt/limelens/lib").glob("*/site-packages")
    there = {path.name for path in packages.glob("nvidia/*/lib/*.so*")}
    assert there >= LOADED_LATER
    container = run_image("serve", "--log-level", "info", volumes={"/photo.png": photo})
    container.says("127.0.0.1:8500")

    said = container.execute("python", "-c", LISTING)
    assert "libcublasLt.so.13 => /" in said.stdout, said.stderr
    assert set(re.findall(r"(\S+) => not found", said.stdout)) == {"libcuda.so.1"}

    asked = container.execute(
        "limelens", "classify", "/photo.png", "--server", "127.0.0.1:8500", "--json"
    )
    assert json.loads(asked.stdout)[0]["label"] == "without_mask", asked.stderr
    container.signal("TERM")
    code, _, errors = container.ends()
    assert code == 0
    (line,) = [one for one in errors.splitlines() if "CUDA" in one or "libcuda" in one]
    assert "facemask runs on the CPU: no NVIDIA driver" in line


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_device_that_is_asked_for_is_used_or_refused(run_image: RunImage, device: str) -> None:
    container = run_image("serve", "--device", device)
    if device == "cpu":
        container.says("127.0.0.1:8500")
        container.signal("TERM")
    code, output, errors = container.ends()
    assert code == (device == "cuda"), (output, errors)
    assert errors.count("\n") == code, errors
