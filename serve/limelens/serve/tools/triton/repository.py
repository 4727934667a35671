"""The folders of a model repository of Triton, and how bundles get in.

A model that is new appears complete or not at all; to one that is there, versions are added, each
complete, and nothing else is changed. It knows files, and not what config.pbtxt says.
"""

from __future__ import annotations

import filecmp
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from limelens.inference import model_config_pb2 as pb2
from limelens.serve.bundle import Bundle, Metadata, Task, load_bundle
from limelens.serve.bundle.checks import read_bundle_file
from limelens.serve.bundle.folder import (
    FILE_NAME,
    WARM_UP_FOLDER,
    is_model_name,
    look_at,
    look_into,
    version_of,
)
from limelens.serve.bundle.signatures import SIGNATURE_NAME
from limelens.serve.drafts import new_draft, publish
from limelens.serve.errors import BundleError
from limelens.serve.files import locked_folder, write_whole
from limelens.serve.tools.triton.config import (
    LABELS_NAME,
    WARM_UP_NAME,
    config_of,
    differences,
    from_text,
    to_text,
    with_versions_of,
)

_CONFIG: Final = "config.pbtxt"
_EXPECTED: Final = "expected a bundle, or the folder of a version, a model or a model repository"


@dataclass(frozen=True)
class WrittenModel:
    """A model in Triton's repository.

    Args:
        path: Its folder.
        added: The versions that were written.
        present: Versions that were there, with the same file.
    """

    name: str
    path: Path
    added: tuple[int, ...]
    present: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """`model`, `path`, `versions` and `already_there`."""
        return {
            "model": self.name,
            "path": str(self.path),
            "versions": list(self.added),
            "already_there": list(self.present),
        }


def find_bundles(source: Path) -> dict[str, dict[int, Path]]:
    """The bundles in a place, by model and version; empty if there are none.

    Args:
        source: A bundle, or the folder of a version, of a model or of a model repository. A bundle
            that is in no version's folder is version 1, and its model has no name yet: `""`.
    """
    file = source / FILE_NAME if (source / FILE_NAME).is_file() else source
    if file.is_file():
        file = file.absolute()
        version = version_of(file)
        name = file.parent.parent.name if version else ""
        return {name: {version or 1: file}} if file.suffix == ".onnx" else {}
    if not source.is_dir():
        return {}
    source = source.resolve()
    model = look_at(source)
    entries = {source.name: model} if model and model.versions else look_into(source)
    models = {
        name: {version: path for version, path in entry.versions.items() if path.is_file()}
        for name, entry in entries.items()
    }
    return {name: versions for name, versions in models.items() if versions}


def write_models(source: Path, folder: Path, *, name: str | None = None) -> list[WrittenModel]:
    """Writes bundles into a model repository of Triton.

    Each file is copied as it is, after it met its golden vector here: Triton will not check that.

    Args:
        source: As in `find_bundles`.
        folder: The repository; it is made if it is not there.
        name: What the model is called there; None keeps its name.

    Raises:
        BundleError: There is no bundle, or one cannot be used; a name is given for several models,
            or cannot be that of a folder; versions do not fit each other, or those that are in
            the folder.
        MissingExtraError: onnxruntime is not installed.
        OSError: The folder cannot be written.
    """
    found = find_bundles(source)
    if not found:
        raise BundleError(f"{source}: no bundle in it; {_EXPECTED}")
    if name is not None and len(found) > 1:
        raise BundleError(f"{source}: {len(found)} models; a name is for one of them")
    if name is not None:
        _check_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write(folder, model if name is None else name, versions)
        for model, versions in sorted(found.items())
    ]


def _write(folder: Path, name: str, versions: Mapping[int, Path]) -> WrittenModel:
    with new_draft(folder) as draft:
        config = _fill(draft, name, versions)
        target = folder / config.name
        with locked_folder(folder):
            if target.exists():
                added = _add(draft, target, config, sorted(versions))
            else:
                publish(draft, target)
                added = sorted(versions)
        present = sorted({*versions} - {*added})
        return WrittenModel(config.name, target, tuple(added), tuple(present))


def _fill(draft: Path, name: str, versions: Mapping[int, Path]) -> pb2.ModelConfig:
    """Writes a model's whole folder; the sample for the warm-up is that of the newest version."""
    configs: dict[int, pb2.ModelConfig] = {}
    for version, path in sorted(versions.items()):
        data, metadata = read_bundle_file(path)
        bundle = _load(path, data, metadata)
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            _check_name(name or metadata.name)
            config = config_of(name or metadata.name, version, bundle, sha256)
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from error
        for other, before in configs.items():
            if words := differences(before, config):
                raise BundleError(
                    f"{path}: it differs in {' and '.join(words)} from version {other}, and Triton "
                    f"has one {_CONFIG} for both; export each alone, under another --name"
                )
        configs[version] = config
        own = draft / str(version)
        own.mkdir()
        write_whole(own / FILE_NAME, data)
        if (signature := path.with_name(SIGNATURE_NAME)).is_file():
            write_whole(own / SIGNATURE_NAME, signature.read_bytes())
    for one in configs.values():
        for key, parameter in one.parameters.items():
            config.parameters[key].CopyFrom(parameter)
    write_whole(draft / _CONFIG, to_text(config))
    if any(output.label_filename for output in config.output):
        write_whole(draft / LABELS_NAME, "".join(f"{label}\n" for label in metadata.labels))
    (draft / WARM_UP_FOLDER).mkdir()
    write_whole(draft / WARM_UP_FOLDER / WARM_UP_NAME, metadata.golden.image.tobytes())
    return config


def _check_name(name: str) -> None:
    # A bundle may name itself anything, such as a folder elsewhere.
    if not is_model_name(name):
        raise BundleError(
            f"name {name!r}; expected that of a folder, without slashes and no dot in front"
        )


def _load(path: Path, data: bytes, metadata: Metadata) -> Bundle:
    return load_bundle(path, "cpu", read=lambda _path: (data, metadata), tasks=frozenset(Task))


def _add(draft: Path, target: Path, config: pb2.ModelConfig, versions: list[int]) -> list[int]:
    """Moves versions into a model's folder that is there; returns those that it lacked."""
    elsewhere = "export into another folder, or under another --name"
    try:
        text = (target / _CONFIG).read_text(encoding="utf-8")
        present = from_text(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BundleError(
            f"{target}: it is there, and its {_CONFIG} cannot be read ({reason}); {elsewhere}"
        ) from error
    if words := differences(present, config):
        raise BundleError(
            f"{target}: its {_CONFIG} differs in {' and '.join(words)} from what is exported; "
            f"{elsewhere}"
        )
    added = [version for version in versions if not (target / str(version)).exists()]
    for version in versions:
        there = target / str(version) / FILE_NAME
        if version not in added and not _is_same(there, draft / str(version) / FILE_NAME):
            raise BundleError(f"{there}: another file is there; expected none, or the same")
    for version in added:
        (draft / str(version)).rename(target / str(version))
    write_whole(target / _CONFIG, with_versions_of(text, present, config))
    return added


def _is_same(one: Path, other: Path) -> bool:
    return one.is_file() and filecmp.cmp(one, other, shallow=False)
