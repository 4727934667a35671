"""A real Triton server with the onnxruntime backend, where there is one.

LIMELENS_TRITON is the command that starts it, such as `tritonserver --backend-directory DIR`;
without it, `tritonserver` is looked for.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.ports import free_port
from tests.waiting import until

from limelens.serve.bundle import read_metadata

COMMAND = shlex.split(os.environ.get("LIMELENS_TRITON", "")) or ["tritonserver"]
ASK = """
import json, sys
import numpy as np
import tritonclient.grpc as triton

address, name, version, sample, *shape = sys.argv[1:]
one = np.fromfile(sample, np.uint8).reshape([int(size) for size in shape])
with triton.InferenceServerClient(address) as client:
    answers = {}
    for count in (1, 3, 8, 64):
        images = triton.InferInput("images", [count, *one.shape], "UINT8")
        images.set_data_from_numpy(np.stack([one] * count))
        result = client.infer(name, [images], model_version=version)
        answers[count] = result.as_numpy("probabilities").tolist()
    images = triton.InferInput("images", [1, *one.shape], "UINT8")
    images.set_data_from_numpy(one[np.newaxis])
    top = [triton.InferRequestedOutput("probabilities", class_count=1)]
    best = client.infer(name, [images], outputs=top).as_numpy("probabilities")[0, 0].decode()
    config = client.get_model_config(name, as_json=True)["config"]
    print(json.dumps([answers, best, config]))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which(COMMAND[0]) is None, reason="no tritonserver here, nor in LIMELENS_TRITON"
    ),
]


@pytest.fixture(scope="module")
def address(exported: tuple[Path, Path], tmp_path_factory: Any) -> Iterator[str]:
    """A Triton server of the repository that was written."""
    http, grpc = free_port(), free_port()
    log = tmp_path_factory.mktemp("log") / "triton.log"
    options = {"model-repository": exported[1], "http-port": http, "grpc-port": grpc}
    given = [f"--{name}={value}" for name, value in options.items()]
    with log.open("w") as file:
        server = subprocess.Popen(
            [*COMMAND, *given, "--allow-metrics=false"], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: "Started GRPC" in log.read_text() or server.poll() is not None, 300)
        assert server.poll() is None, log.read_text()
        yield f"127.0.0.1:{grpc}"
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.mark.parametrize(
    ("name", "version"), [("colours", 1), ("tags", 1), ("faces", 1), ("facemask", 2)]
)
def test_triton_meets_the_golden_vector(
    exported: tuple[Path, Path], address: str, name: str, version: int
) -> None:
    folder = exported[1] / name
    metadata = read_metadata(folder / str(version) / "model.onnx")
    golden = metadata.golden
    sample = folder / "warmup" / "golden_image"
    arguments = [address, name, str(version), str(sample), *map(str, golden.image.shape)]
    asked = subprocess.run(
        [sys.executable, "-c", ASK, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answers, best, config = json.loads(asked.stdout)
    on_gpu = config["instance_group"][0]["kind"] == "KIND_GPU"
    tolerance = golden.tolerance["CUDAExecutionProvider" if on_gpu else "CPUExecutionProvider"]
    for count, found in answers.items():
        assert np.shape(found) == (int(count), len(golden.probabilities))
        assert np.abs(np.array(found) - golden.probabilities).max() <= tolerance
    _, index, *label = best.split(":", 2)
    labels = [] if name == "faces" else [metadata.labels[int(index)]]
    assert int(index) == int(golden.probabilities.argmax())
    assert label == labels
