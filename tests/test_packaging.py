"""The content of the wheel, and the namespace that the four roots share."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import limelens.serve

ROOT = Path(__file__).parent.parent
ROOTS = ("train", "serve", "explain", "proto")


def test_no_root_hides_the_others() -> None:
    assert not [root for root in ROOTS if (ROOT / root / "limelens" / "__init__.py").exists()]
    assert not (ROOT / "proto" / "__init__.py").exists()
    for name in ("train", "serve", "cli", "errors", "explain", "inference", "v1"):
        assert importlib.util.find_spec(f"limelens.{name}") is not None


@pytest.mark.parametrize("part", ["serve", "explain", "train"])
def test_every_exported_name_is_there_and_listed(part: str) -> None:
    module = importlib.import_module(f"limelens.{part}")
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    if part != "explain":
        assert dir(module) == sorted(module.__all__)


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert limelens.serve.__version__ == metadata.version("limelens")


def test_the_client_needs_nothing_heavy() -> None:
    code = (
        "import sys; from limelens.serve import Client, LimelensError, ModelInfo, Tls; "
        "import limelens.cli; "
        "heavy = {'onnxruntime', 'onnx', 'skimage', 'scipy', 'sklearn', 'torch', 'matplotlib', "
        "'cryptography', 'jwt', 'limits', 'av', 'simplejpeg'}; "
        "found = heavy & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def imported(folder: Path, *, without: str = "") -> set[str]:
    """The packages that the modules of a folder import from elsewhere, wherever they do."""
    found = set()
    for path in folder.rglob("*.py"):
        if without and without in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {one.name for one in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module))
    ours = {"limelens", "__future__", *sys.stdlib_module_names}
    return {name.partition(".")[0] for name in found} - ours


def installed_by(*extras: str) -> set[str]:
    """What can be imported after an installation: what is asked for, and what that asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(extras)
    requirements: list[str] = project["dependencies"]
    while wanted:
        requirements = requirements + project["optional-dependencies"][wanted.pop()]
        wanted += [one[9:-1] for one in requirements if one.startswith("limelens[")]
        requirements = [one for one in requirements if not one.startswith("limelens[")]
    names = {re.split(r"[^\w.-]", one)[0] for one in requirements}
    for name in list(names):
        further = [one for one in metadata.requires(name) or () if ";" not in one]
        names |= {re.split(r"[^\w.-]", one)[0] for one in further}
    files = [file for name in names for file in metadata.files(name) or ()]
    return {file.parts[0].partition(".")[0] for file in files}


def test_what_watching_needs_comes_with_its_extras() -> None:
    watch = ROOT / "serve/limelens/watch"
    # One kind of export alone has an extra of its own.
    assert imported(watch, without="console") - {"pyarrow"} <= installed_by("watch")
    assert imported(watch / "console") <= installed_by("console")
    camera = imported(ROOT / "serve/limelens/serve/tools/camera")
    assert camera - {"simplejpeg"} <= installed_by("camera")  # which is faster, but not needed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout as it is."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_code_the_contract_and_the_shipped_model(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "limelens/serve/client/__init__.py",
        "limelens/serve/py.typed",
        "limelens/cli/app.py",
        "limelens/errors/__init__.py",
        "limelens/errors/py.typed",
        "limelens/train/training/loop.py",
        "limelens/explain/__init__.py",
        "limelens/v1/classifier_service_pb2_grpc.py",
        "limelens/v1/classifier_service.proto",
        "limelens/inference/inference_service_pb2_grpc.py",
        "limelens/serve/faces/detector/model.onnx",
        "limelens/serve/models/facemask/2/model.onnx",
        "limelens/serve/tools/explain_report/page.html.j2",
        "limelens/train/report/page.html.j2",
        "limelens/watch/console/sentences/de.toml",
        "limelens/watch/console/static/console.css",
        "limelens/watch/console/static/shapes.svg",
        "limelens/watch/console/templates/base.html",
    } <= names
    assert not [name for name in names if name.startswith(("train/", "serve/", "models/"))]


@pytest.mark.slow
def test_the_base_wheel_alone_gives_a_client(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--constraint", constraints, wheel],
        check=True,
        timeout=600,
    )
    code = (
        "from importlib.util import find_spec; from limelens.serve import Client; "
        "assert not [m for m in ('torch', 'onnxruntime', 'skimage') if find_spec(m)]; "
        "Client('127.0.0.1:1').close()"
    )
    subprocess.run([python, "-W", "error", "-c", code], check=True, timeout=60)
    subprocess.run([tmp_path / "venv" / "bin" / "limelens", "--version"], check=True, timeout=60)


def test_names_of_the_version_before_still_work() -> None:
    code = (
        "from limelens.serve.camera import Seen, Source, SourceError, open_source, watch; "
        "from limelens.train.data import DataError, list_data; "
        "from limelens.train.examples import DataError as old; "
        "assert old is DataError"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
