"""Checks this machine: packages, onnxruntime and CUDA, models, fonts, cores, disk.

It changes nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from limelens.serve.errors import LimelensError
from limelens.serve.tools.doctor.check import Check, ok, warning, wrong

_LEAST_FREE_BYTES: Final = 1024**3
_CJK: Final = "口罩 マスク 마스크"
_REQUIREMENT: Final = re.compile(r"^([A-Za-z0-9._-]+)")
_EXTRA: Final = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")
_CUDA: Final = "CUDAExecutionProvider"


def check_machine(models: Path | None) -> Iterator[Check]:
    """Checks this machine and its model repository; None if there is none."""
    yield _python()
    yield _package()
    yield from _onnxruntime()
    yield _torch()
    yield from check_models(models)
    yield _fonts()
    yield _cores()
    yield from _disk(models)


def check_models(folder: Path | None) -> Iterator[Check]:
    """Loads every model of a folder, which checks its golden vector."""
    export = "export one there (limelens export RUN --name NAME) or name another (--models DIR)"
    if folder is None:
        yield warning("models", "no ./models here, and none packaged with limelens", export)
        return
    if not folder.is_dir():
        yield wrong("models", f"{folder} is no folder", export)
        return
    found = sorted(
        path
        for path in folder.glob("*/*/model.onnx")
        if not path.parent.parent.name.startswith(".")
    )
    if not found:
        yield wrong("models", f"{folder} holds no NAME/VERSION/model.onnx", export)
        return
    if not (_installed("onnxruntime") or _installed("onnxruntime-gpu")):
        yield warning(
            "models",
            f"{len(found)} in {folder}, not tried: onnxruntime is not installed",
            "pip install 'limelens[serve-cpu]' to serve them",
        )
        return
    from limelens.serve.bundle import load_bundle

    for path in found:
        name = f"model {path.parent.parent.name} {path.parent.name}"
        try:
            bundle = load_bundle(path)
        except (LimelensError, OSError) as error:
            yield wrong(name, str(error), "export it again, or delete that version's folder")
        else:
            megabytes = path.stat().st_size / 1e6
            crop = bundle.metadata.crop
            faces = "" if crop is None else f"; faces with {crop:g} of their box around them"
            own = bundle.metadata.explain
            explained = "" if own is None else f"; explained by {own.describe()}"
            yield ok(
                name,
                f"golden vector met on {bundle.provider}; {megabytes:.1f} MB{faces}{explained}",
            )


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return ok("python", f"{found}, {sys.executable}")


def _package() -> Check:
    """The package's version, and its extras that are complete; `pip check` finds the rest."""
    try:
        version = importlib.metadata.version("limelens")
        requirements = importlib.metadata.requires("limelens") or []
    except importlib.metadata.PackageNotFoundError:
        return warning("limelens", "it runs from a folder and is not installed", "pip install .")
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        extra, name = _EXTRA.search(requirement), _REQUIREMENT.match(requirement)
        if extra is not None and name is not None and name[1] != "limelens":
            extras.setdefault(extra[1], []).append(name[1])
    there = sorted(extra for extra, names in extras.items() if all(map(_installed, names)))
    return ok("limelens", f"{version}; extras: {', '.join(there) or 'none, the client alone'}")


def _onnxruntime() -> Iterator[Check]:
    cpu, gpu = _installed("onnxruntime"), _installed("onnxruntime-gpu")
    try:
        import onnxruntime
    except ImportError as error:
        state = "is not installed" if not (cpu or gpu) else f"cannot be loaded ({error})"
        yield warning(
            "onnxruntime",
            f"it {state}: this machine can call servers but not serve",
            "pip install 'limelens[serve-cpu]' or 'limelens[serve-gpu]' to serve",
        )
        return
    providers = onnxruntime.get_available_providers()
    found = f"{onnxruntime.__version__}; built with {', '.join(providers)}"
    if not (cpu and gpu):
        yield ok("onnxruntime", found)
    elif reason := run_on("CPUExecutionProvider"):
        yield wrong(
            "onnxruntime",
            "both onnxruntime and onnxruntime-gpu are installed, and a graph does not run: "
            f"{reason}",
            "uninstall both, then pip install 'limelens[serve-gpu]' or 'limelens[serve-cpu]'",
        )
    else:
        yield warning(
            "onnxruntime",
            f"{found}; both onnxruntime and onnxruntime-gpu are installed in one folder: the last "
            "one works",
            "leave it, or uninstall both before the next upgrade and install one of them",
        )
    yield _cuda(built_in=_CUDA in providers)


def _cuda(*, built_in: bool) -> Check:
    """Runs a session on CUDA: onnxruntime by itself falls back silently."""
    has_driver = Path("/proc/driver/nvidia").exists() or bool(shutil.which("nvidia-smi"))
    if not built_in:
        if has_driver:
            return warning(
                "cuda",
                "an NVIDIA driver is here, and this onnxruntime was built without CUDA",
                "pip uninstall onnxruntime, then pip install 'limelens[serve-gpu]'",
            )
        return ok("cuda", "no NVIDIA driver, and none is needed")
    reason = run_on("CUDAExecutionProvider")
    if not reason:
        return ok("cuda", "a graph ran on it with the right result")
    if has_driver:
        return wrong(
            "cuda",
            f"a graph does not run on it: {reason}",
            "update the driver, and pip install 'limelens[serve-gpu]', which brings CUDA and cuDNN",
        )
    return warning(
        "cuda",
        reason,
        "install the driver, or pip install 'limelens[serve-cpu]', which is smaller",
    )


def run_on(provider: str) -> str:
    """Runs a graph of one node on an execution provider; returns why it failed, or nothing."""
    import onnxruntime
    from onnx import TensorProto, helper

    from limelens.serve.bundle.devices import missing_driver

    if provider == _CUDA and (reason := missing_driver()):
        return reason
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["y"])],
        "square",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    values = np.array([[1, 2], [3, 4]], np.float32)
    try:
        if provider == _CUDA and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls(directory="")
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=[provider]
        )
        took = session.get_providers()[0]
        (found,) = session.run(None, {"x": values})
    # A runtime may raise anything for libraries and drivers that do not fit.
    except Exception as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    if took != provider:
        return f"it ran on {took} instead; libraries or the driver are missing"
    if not np.allclose(found, values @ values, rtol=1e-2):
        return f"it gave {found.tolist()}; expected {(values @ values).tolist()}"
    return ""


def _torch() -> Check:
    # Never imported: nothing that serves loads it.
    try:
        return ok("torch", f"{importlib.metadata.version('torch')}, for training")
    except importlib.metadata.PackageNotFoundError:
        return ok("torch", "not installed; only training needs it")


def _fonts() -> Check:
    try:
        from limelens.explain.drawing.fonts import MissingFontWarning, font_for
    except ImportError as error:
        return warning(
            "fonts",
            f"not tried: {error.name} is not installed",
            "pip install 'limelens[explain]' to explain images",
        )
    with warnings.catch_warnings(record=True, category=MissingFontWarning) as missing:
        warnings.simplefilter("always", MissingFontWarning)
        font_for(_CJK, 12)
    if missing:
        return warning(
            "fonts",
            "none has Chinese, Japanese and Korean characters; drawings show a substitute",
            "install one, such as fonts-noto-cjk (Debian, Ubuntu)",
        )
    return ok("fonts", "Chinese, Japanese and Korean labels can be drawn")


def _cores() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = _CPU_MAX.read_text().split()  # the control group's limit
        share = int(quota) / int(period)
    except (OSError, ValueError):  # no limit
        return ok("cores", str(cores))
    if share >= (cores or 1):
        return ok("cores", str(cores))
    return warning(
        "cores",
        f"{cores} are visible, but this container may use {share:g}",
        f"limelens serve --num-threads {max(1, round(share))}",
    )


def _disk(models: Path | None) -> Iterator[Check]:
    folders = {"disk": models if models is not None and models.is_dir() else Path.cwd()}
    try:
        folders["temporary folder"] = Path(tempfile.gettempdir())
    except OSError:
        advice = "a server needs none; for other commands name one (TMPDIR)"
        yield warning("temporary folder", "no folder is writable", advice)
    for name, folder in folders.items():
        free = shutil.disk_usage(folder).free
        found = f"{free / 1e9:.1f} GB free at {folder.absolute()}"
        if free < _LEAST_FREE_BYTES:
            yield warning(name, found, "make room: a new version is written beside the old one")
        else:
            yield ok(name, found)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
