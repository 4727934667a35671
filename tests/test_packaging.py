"""What a release holds, and the namespace that the four roots share."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import limelens.serve

ROOT = Path(__file__).parent.parent
ROOTS = ("train", "serve", "explain", "proto")
COMMITTED = "@1700000000"
"""When the commit was made that is built."""


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


def git(folder: Path, *arguments: object) -> str:
    """Runs git with nobody's own settings; gives what it prints."""
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    own |= {
        f"GIT_{who}_{what}": "release"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    own |= {"GIT_AUTHOR_DATE": COMMITTED, "GIT_COMMITTER_DATE": COMMITTED}
    return subprocess.run(
        ["git", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **own},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose only commit is this checkout as it is, beside a file of somebody's."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    folder = tmp_path_factory.mktemp("one")
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in listed.split("\0")[:-1]:
        if (ROOT / name).is_file():  # not so if it was removed, and that is not committed yet
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "As it is")
    (folder / "serve" / "limelens" / "mine.py").write_text("secret = 1\n")
    return folder


@pytest.fixture(scope="module")
def release(checkout: Path) -> Path:
    """The folder with the sdist, and the wheel that was built from it, as `make dist` does."""
    # As a person may have it.
    git(checkout, "config", "core.autocrlf", "true")
    git(checkout, "config", "tar.umask", "0077")
    subprocess.run(
        [".ci/dist", sys.executable], cwd=checkout, check=True, capture_output=True, timeout=300
    )
    return checkout / "dist"


@pytest.fixture(scope="module")
def wheel(release: Path) -> Path:
    (built,) = release.glob("*.whl")
    return built


@pytest.mark.ci
def test_a_release_is_the_same_bytes_wherever_and_whenever_it_is_built(
    checkout: Path, release: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "a folder of another name"
    git(tmp_path, "clone", "--quiet", checkout, elsewhere)
    other = {"LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    other["SOURCE_DATE_EPOCH"] = git(elsewhere, "log", "-1", "--format=%ct").strip()
    # Not as `make dist`: this wheel is built from the checkout, and not from an sdist.
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", elsewhere],
        env={**os.environ, **other},
        umask=0o077,
        check=True,
        capture_output=True,
        timeout=300,
    )
    built = {path.name: path.read_bytes() for path in (elsewhere / "dist").iterdir()}
    assert len(built) == 2
    assert built == {path.name: path.read_bytes() for path in release.glob("limelens-*")}
    sums = [line.split() for line in (release / "SHA256SUMS").read_text().splitlines()]
    assert {name: digest for digest, name in sums} == {
        name: hashlib.sha256(data).hexdigest() for name, data in built.items()
    }


@pytest.mark.ci
def test_the_sdist_holds_what_is_committed_and_nothing_else(checkout: Path, release: Path) -> None:
    (built,) = release.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        members = [one for one in archive.getmembers() if not one.isdir()]
    names = {one.name.partition("/")[2] for one in members}
    assert names - {"PKG-INFO"} == {*git(checkout, "ls-files", "-z").split("\0")[:-1]}
    assert {(one.uid, one.gid, one.mtime) for one in members} == {(0, 0, int(COMMITTED[1:]))}


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
def test_the_base_wheel_alone_gives_a_client_and_is_listed(checkout: Path, wheel: Path) -> None:
    listing = [".ci/sbom", sys.executable, ""]
    subprocess.run(listing, cwd=checkout, check=True, timeout=900)
    programs = checkout / "build" / "sbom" / "bin"
    code = (
        "from importlib.util import find_spec; from limelens.serve import Client; "
        "assert not [m for m in ('torch', 'onnxruntime', 'skimage') if find_spec(m)]; "
        "Client('127.0.0.1:1').close()"
    )
    subprocess.run([programs / "python", "-W", "error", "-c", code], check=True, timeout=60)
    subprocess.run([programs / "limelens", "--version"], check=True, timeout=60)

    (path,) = wheel.parent.glob("*.cdx.json")
    text = path.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    assert found["metadata"]["component"]["name"] == "limelens"
    assert found["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert "serialNumber" not in found
    versions = {one["name"].lower(): one["version"] for one in found["components"]}
    pins = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    tested = {pin[0].lower(): pin[1] for pin in pins if len(pin) == 2}
    assert versions == {name: tested[name] for name in versions}
    assert {"grpcio", "numpy", "pillow", "typer"} <= {*versions}
    assert not {"pip", "pytest", "torch"} & {*versions}
    licensed = {one["name"] for one in found["components"] if one.get("licenses")}
    assert {"grpcio", "numpy", "typer"} <= licensed
    assert str(checkout) not in text
    subprocess.run(listing, cwd=checkout, check=True, timeout=900)
    assert path.read_text() == text


def test_names_of_the_version_before_still_work() -> None:
    code = (
        "from limelens.serve.camera import Seen, Source, SourceError, open_source, watch; "
        "from limelens.train.data import DataError, list_data; "
        "from limelens.train.examples import DataError as old; "
        "assert old is DataError"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
