"""The models of a folder: models/<name>/<version>/model.onnx, as Triton lays them out.

It finds versions, loads each, keeps the reason for those that are refused, and answers which
bundle is meant by a name and a version. It knows nothing of requests, threads or queues.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.bundle.session import Device
from limelens.serve.errors import BundleError, InvalidRequestError, NotFoundError

FILE_NAME: Final = "model.onnx"
_MAX_VERSION: Final = 2**31 - 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Served:
    """One version of one model that answers.

    Args:
        name: The folder's name.
        version: 1, 2, 3 …
        bundle: What answers.
    """

    name: str
    version: int
    bundle: Bundle


@dataclass(frozen=True)
class Refused:
    """One version of one model that is there and does not answer.

    Args:
        name: The folder's name.
        version: 1, 2, 3 …
        reason: Why it was refused.
    """

    name: str
    version: int
    reason: str


_Key = tuple[str, int]
_Stamp = tuple[int, int, int]


class Repository:
    """What is served from one folder. `refresh` may run in a thread beside readers.

    Args:
        folder: Holds one folder for each model.
        device: As for `load_bundle`.
        num_threads: As for `load_bundle`.

    Raises:
        BundleError: The folder is missing, holds no model, or only refused ones.
        ProviderError: `cuda` was asked for and cannot be used.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        device: Device = "auto",
        *,
        num_threads: int | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._device: Device = device
        self._num_threads = num_threads
        self._served: Mapping[_Key, Served] = {}
        self._refused: Mapping[_Key, Refused] = {}
        self._stamps: dict[_Key, _Stamp] = {}
        self._num_failures = 0
        self._check_folder()
        self.refresh()
        if not self._served:
            reasons = "; ".join(refused.reason for refused in self.refused)
            raise BundleError(f"{self._folder}: every model in it was refused: {reasons}")

    @property
    def served(self) -> tuple[Served, ...]:
        """By name, then version."""
        current = self._served
        return tuple(current[key] for key in sorted(current))

    @property
    def refused(self) -> tuple[Refused, ...]:
        """By name, then version."""
        current = self._refused
        return tuple(current[key] for key in sorted(current))

    @property
    def num_failures(self) -> int:
        """How often a file was refused, those refused since then once more included."""
        return self._num_failures

    def get(self, name: str = "", version: int = 0) -> Served:
        """The model that is meant.

        Args:
            name: Empty means the only one.
            version: 0 means the newest that answers.

        Raises:
            InvalidRequestError: No name although several are served, or a negative version.
            NotFoundError: No such model or version; the message names what is served.
        """
        current = self._served
        names = sorted({key[0] for key in current})
        if version < 0:
            raise InvalidRequestError("version", f"{version}; expected 1 or more, or 0 for newest")
        if not name:
            if len(names) != 1:
                raise InvalidRequestError("model", f"not given; expected one of {', '.join(names)}")
            name = names[0]
        versions = sorted(key[1] for key in current if key[0] == name)
        if not versions:
            raise NotFoundError(
                f"no model {name[:100]!r} is served; there {_is_or_are(names)}",
                kind="model",
                name=name[:100],
            )
        if version and version not in versions:
            refused = self._refused.get((name, version))
            reason = f" (it was refused: {refused.reason})" if refused else ""
            raise NotFoundError(
                f"no version {version} of {name!r} is served{reason}; there "
                f"{_is_or_are([str(v) for v in versions])}",
                kind="model version",
                name=f"{name}/{version}",
            )
        return current[name, version or versions[-1]]

    def refresh(self) -> bool:
        """Loads what is new or changed, forgets what is gone.

        A changed file that is refused leaves the version that was served before in its place.

        Each file is judged for itself: whatever is wrong with one, the others are loaded.

        Returns:
            Whether anything changed.

        Raises:
            ProviderError: `cuda` was asked for, cannot be used, and nothing is left that answers.
        """
        found = dict(self._find())
        served = {key: value for key, value in self._served.items() if key in found}
        refused = {key: value for key, value in self._refused.items() if key in found}
        stamps = {key: stamp for key, stamp in self._stamps.items() if key in found}
        changed = len(served) != len(self._served) or len(refused) != len(self._refused)
        failure: Exception | None = None
        for (name, version), path in found.items():
            key = name, version
            stamp = _stamp(path)
            if stamps.get(key) == stamp:
                continue
            try:
                bundle = load_bundle(path, self._device, num_threads=self._num_threads)
            except Exception as error:
                # Only a verdict on the file holds until it changes; anything else is tried again.
                if isinstance(error, BundleError):
                    stamps[key] = stamp
                else:
                    failure = error
                now = Refused(name, version, str(error))
                if refused.get(key) != now or isinstance(error, BundleError):
                    self._num_failures += 1
                    _log.error("refused %s version %d: %s", name, version, error)
                    changed = True
                refused[key] = now
            else:
                _log.info("loaded %s version %d on %s", name, version, bundle.provider)
                stamps[key] = stamp
                served[key] = Served(name, version, bundle)
                refused.pop(key, None)
                changed = True
        # Swapped whole: a reader sees the old state or the new one.
        self._served, self._refused, self._stamps = served, refused, stamps
        if failure is not None and not served:
            raise failure
        return changed

    def _check_folder(self) -> None:
        layout = (
            f"expected models as <name>/<version>/{FILE_NAME}, such as `limelens export` writes"
        )
        if not self._folder.is_dir():
            raise BundleError(f"{self._folder}: no such folder; {layout}")
        if not any(self._find()):
            raise BundleError(f"{self._folder}: no models in it; {layout}")

    def _find(self) -> Iterator[tuple[_Key, Path]]:
        for model in sorted(self._folder.iterdir()):
            if model.name.startswith(".") or not model.is_dir():
                continue
            for version in model.iterdir():
                name = version.name
                # As Triton: other folders, and numbers that begin with 0, are no versions.
                if (
                    name.isascii()
                    and name.isdecimal()
                    and name[0] != "0"
                    and int(name) <= _MAX_VERSION
                    and version.is_dir()
                ):
                    yield (model.name, int(name)), version / FILE_NAME


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_size, status.st_ino


def _is_or_are(names: list[str]) -> str:
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(names)}"
