"""What runs as in a container: in a root made by namespaces of the kernel, or in an image.

LIMELENS_IMAGES=FOLDER keeps what buildah made there for the next time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image
from tests.deploy.container import Container, Containers
from tests.deploy.image_building import BUILD_TOOLS, BuiltImage, Images

import limelens.serve

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
TOOLS = ("unshare", "mount", "chroot", "setpriv", "env")
Start = Callable[..., subprocess.Popen[str]]
Build = Callable[..., BuiltImage]
RunImage = Callable[..., Container]


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


@pytest.fixture(scope="session")
def build_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Builds an image, once for all processes of this run: its name and variables of make."""
    missing = [tool for tool in BUILD_TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, and {', '.join(missing) or 'nothing else'}")
    kept = os.environ.get("LIMELENS_IMAGES")
    ours = tmp_path_factory.getbasetemp()  # of this process, if the run has several
    of_run = ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours
    folder = Path(kept) if kept else of_run / "images"
    folder.mkdir(exist_ok=True)
    images = Images(folder)
    lock = FileLock(folder / "lock")

    def build(name: str, *settings: str) -> BuiltImage:
        with lock:
            built = folder / f"built-{name}"
            if not built.exists():
                images.base()
                images.build(name, *settings)
                built.touch()
        return BuiltImage(images, f"localhost/{name}")

    with (folder / "users").open("w") as users:

        def is_alone() -> bool:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        with lock:
            if is_alone():  # what is there is of another run
                images.tidy()
                for built in folder.glob("built-*"):
                    built.unlink()
            fcntl.flock(users, fcntl.LOCK_SH)
        yield build
        with lock:
            if is_alone() and not kept:
                images.remove()


@pytest.fixture(scope="module")
def root(image: BuiltImage) -> Path:
    """The files of the module's image."""
    return image.mount()


@pytest.fixture
def run_image(image: BuiltImage, root: Path, tmp_path: Path) -> Iterator[RunImage]:
    """Starts the module's image as a container: see `Containers.run`."""
    containers = Containers(root, image.config(), tmp_path / "containers")
    containers.folder.mkdir()
    yield containers.run
    containers.stop()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """The photo of a face, which every user can read."""
    from skimage.data import astronaut

    path = tmp_path / "photo.png"
    Image.fromarray(astronaut()).save(path)  # type: ignore[no-untyped-call]
    path.chmod(0o644)
    tmp_path.chmod(0o755)
    return path


@pytest.fixture
def secrets(tmp_path: Path, authority: Callable[..., Any], tokens: Any) -> Path:
    """As deploy/compose.yaml mounts them: tls.crt, tls.key and tokens.toml."""
    chain, key = authority("shown").issue("localhost")
    folder = tmp_path / "secrets"
    folder.mkdir()
    shutil.copy(chain, folder / "tls.crt")
    shutil.copy(key, folder / "tls.key")
    shutil.copy(chain.parent / "shown.pem", folder / "ca.pem")
    (folder / "token").write_text(tokens.set("door", ["classify", "explain", "models"]))
    shutil.copy(tokens.path, folder / "tokens.toml")
    for path in folder.iterdir():
        path.chmod(0o644)  # its reader is another user
    return folder
