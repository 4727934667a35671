"""Makes the files of the image: an environment without what developers need, and what it runs on.

    python image_root.py ENVIRONMENT FOLDER

The Dockerfile runs it as root in its first stage, which is thrown away, on Debian. It trims the
virtual environment in place, and copies Python, the shared libraries that both load, certificates
and time zones into FOLDER: no shell, no package manager. The packages that files come from are
listed in FOLDER/var/lib/dpkg/status.d, where scanners look, with their licences in
FOLDER/usr/share/doc. Knows nothing of limelens.
"""

from __future__ import annotations

import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

# Of Python, what needs a compiler, a display or a package index.
_NOT_OF_PYTHON = (
    *("test", "tests", "idlelib", "tkinter", "_tkinter.*", "turtle*", "lib2to3", "ensurepip"),
    *("config-*", "site-packages", "dist-packages", "__pycache__"),
)
# Of NVIDIA's, what onnxruntime loads for recurrent networks (adv) and FFT alone, or never.
_NOT_OF_CUDA = (
    "libcudnn_adv.so*",
    "libcudnn_ext.so*",
    "libcufft.so*",
    "libcufftw.so*",
    "libnvblas.so*",
)
_SOURCES = {".a", ".c", ".cc", ".cpp", ".h", ".hpp", ".pxd", ".pyx", ".tp"}
_MERGED = ("bin", "lib", "lib64", "sbin")
# With the packages that they come from, since the files of some are made by commands.
_SYSTEM = {
    "ca-certificates": ["/etc/ssl/certs", "/usr/share/ca-certificates"],
    "openssl": ["/etc/ssl/openssl.cnf", "/usr/lib/ssl"],
    "tzdata": ["/usr/share/zoneinfo"],
    "base-files": [
        *("/etc/os-release", "/usr/lib/os-release", "/etc/debian_version"),
        "/usr/share/common-licenses",
    ],
    "base-passwd": ["/etc/passwd", "/etc/group"],
    "libc-bin": ["/etc/nsswitch.conf", "/etc/ld.so.conf", "/etc/ld.so.conf.d"],
    "netbase": ["/etc/services", "/etc/protocols"],
}


def main(environment: Path, folder: Path) -> None:
    """Trims the environment, and fills the folder."""
    _trim(environment)
    folder.mkdir()
    for name in _MERGED:
        if Path("/", name).is_symlink():
            (folder / "usr" / name).mkdir(parents=True)
            (folder / name).symlink_to(f"usr/{name}")
    for name, mode in (("proc", 0o755), ("sys", 0o755), ("dev", 0o755), ("tmp", 0o1777)):
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    copied = set(_python(folder))
    needing = [*_binaries(environment), *(one for one in copied if _is_binary(one))]
    for library in _libraries(needing, environment):
        copied |= set(_copied(library, folder))
    packages = _packages_of(copied)
    for package, paths in _SYSTEM.items():
        for path in [Path(one) for one in paths if Path(one).exists()]:
            _tree(path, folder)
            packages.add(package)
    for package in sorted(packages):
        _describe(package, folder)
    subprocess.run(["ldconfig", "-r", folder], check=True)
    # The container cannot write, and nobody will change these sources.
    _keep_compiled(environment)
    _compile(folder, Path("/"))


def _trim(environment: Path) -> None:
    """Removes tests, sources, tables of symbols, what nobody loads, and pip itself."""
    pip = f"{environment}/bin/python -m pip uninstall --quiet --yes setuptools pip"
    subprocess.run(pip.split(), check=True)
    (packages,) = environment.glob("lib/*/site-packages")
    tests = [*packages.rglob("tests"), packages / "onnx/test", packages / "onnx/backend/test"]
    for folder in tests:
        shutil.rmtree(folder, ignore_errors=True)
    unused = [one for name in _NOT_OF_CUDA for one in packages.glob(f"nvidia/*/lib/{name}")]
    for path in [*unused, *(one for one in packages.rglob("*") if one.suffix in _SOURCES)]:
        path.unlink()
    # Python's own extensions alone: other libraries may be large, signed, or sensitive to it.
    extensions = [
        one for one in _binaries(environment) if re.search(r"\.(cpython-|abi3)", one.name)
    ]
    subprocess.run(["strip", "--strip-unneeded", *extensions], check=True)


def _python(folder: Path) -> Iterator[Path]:
    """Copies Python itself; yields the files."""
    executable = Path(sys.executable)
    yield from _copied(executable, folder)
    library = Path(sysconfig.get_path("stdlib"))
    ignored = shutil.ignore_patterns(*_NOT_OF_PYTHON)
    target = folder / library.relative_to("/")
    shutil.copytree(library, target, ignore=ignored, symlinks=False)
    yield from (library / one.relative_to(target) for one in target.rglob("*") if one.is_file())


def _binaries(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*.so*") if one.is_file() and _is_binary(one)]


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(binaries: Iterable[Path], environment: Path) -> set[Path]:
    """The shared libraries of the system that these load, and the loader."""
    said = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    found = {Path(one) for one in re.findall(r"(?:=> |^\t)(/\S+) \(0x", said, re.MULTILINE)}
    return {one for one in found if environment not in one.parents}


def _copied(path: Path, folder: Path) -> Iterator[Path]:
    """Copies a file, and what it links to; yields each."""
    path = path.parent.resolve() / path.name
    target = folder / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(target):
        shutil.copy2(path, target, follow_symlinks=False)
    yield path
    if path.is_symlink():
        yield from _copied(path.parent / path.readlink(), folder)


def _tree(path: Path, folder: Path) -> None:
    target = folder / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, target, symlinks=True, dirs_exist_ok=True)
    elif not target.exists():
        list(_copied(path, folder))


def _packages_of(paths: Iterable[Path]) -> set[str]:
    """The Debian packages that these files belong to."""
    # /lib is /usr/lib, and a package may know its files by either.
    names = {str(one) for one in paths} | {str(one).removeprefix("/usr") for one in paths}
    said = subprocess.run(
        ["dpkg-query", "--search", *sorted(names)], capture_output=True, text=True, check=False
    ).stdout
    found = (line.rpartition(": ")[0] for line in said.splitlines())
    return {
        package.split(":")[0]
        for packages in found
        if not packages.startswith("diversion")
        for package in packages.split(", ")
    }


def _describe(package: str, folder: Path) -> None:
    """Writes which version of a package is there, and its licence."""
    status = subprocess.run(
        ["dpkg-query", "--status", package], capture_output=True, text=True, check=True
    ).stdout
    listed = folder / "var" / "lib" / "dpkg" / "status.d" / package
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text(status)
    licence = Path("/usr/share/doc", package, "copyright")
    if licence.exists():
        target = folder / licence.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(licence, target)  # some link to the one of another package


def _compile(folder: Path, at: Path) -> None:
    """Compiles all modules of a folder that will be seen at another place."""
    options = f"-q -j 0 --invalidation-mode unchecked-hash -s {folder} -p {at} {folder}"
    subprocess.run([sys.executable, "-m", "compileall", *options.split()], check=True)


def _keep_compiled(environment: Path) -> None:
    """Makes what was imported, and so compiled, independent of the times of files."""
    for compiled in environment.rglob("*.pyc"):
        source = importlib.util.source_from_cache(compiled)
        if Path(source).exists():
            py_compile.compile(
                source,
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
