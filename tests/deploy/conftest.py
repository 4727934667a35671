"""A root of its own for what runs in a container, made by namespaces of the kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import limelens.serve

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
TOOLS = ("unshare", "mount", "chroot", "setpriv", "env")
Start = Callable[..., subprocess.Popen[str]]


def outermost(folders: list[Path]) -> list[Path]:
    """The folders without those that lie in another of them."""
    return [one for one in folders if not any(other in one.parents for other in folders)]


@pytest.fixture
def models_there(tmp_path: Path, one_model: Path) -> Path:
    """The models, where another user can read them."""
    folder = tmp_path / "shown" / "models"
    shutil.copytree(one_model, folder)
    folder.chmod(0o755)  # as the temporary folder that they come from is not
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Python with these arguments in the read-only root, where tmp_path/shown is seen.

    With `mounts`, folders are seen at other paths as well; `alone`, with a network of its own.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"without {', '.join(missing)} there is no root of its own to be made")
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip(f"this machine allows no mounts: {tried.stderr.strip()}")
    root = tmp_path / "root"
    root.mkdir()
    shown = tmp_path / "shown"
    shown.mkdir(exist_ok=True)
    roots = {Path(folder).parent.parent for folder in limelens.serve.__path__} | {
        CHECKOUT / name for name in ("train", "serve", "explain", "proto", "models")
    }
    folders = {Path(sys.prefix), Path(sys.base_prefix), shown, *roots}
    visible = outermost(sorted({one.resolve() for one in folders} - {Path("/usr")}))
    path = os.pathsep.join(str(CHECKOUT / name) for name in ("train", "serve", "explain", "proto"))
    started: list[subprocess.Popen[str]] = []

    def run(
        *arguments: object, mounts: Mapping[Path, str] | None = None, alone: bool = False
    ) -> subprocess.Popen[str]:
        if alone and not (shutil.which("ip") and shutil.which("nsenter")):
            pytest.skip("without ip and nsenter there is no network of its own to be used")
        command: list[str | Path] = ["unshare", "--mount"]
        command += ["--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"] if alone else []
        command += ["sh", HERE / "read_only_root.sh", root, *visible]
        command += [f"{folder}:{place}" for folder, place in (mounts or {}).items()]
        command += ["--", f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1"]
        command += ["OMP_NUM_THREADS=1", sys.executable, *map(str, arguments)]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield run
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()
