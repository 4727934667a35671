"""The models of a folder: models/<name>/<version>/model.onnx, as Triton lays them out.

It finds versions, has those loaded that are wanted, keeps the reason for those that are refused,
and answers which bundle is meant by a name and a version. What took over and fails is taken out
again. It knows nothing of requests, queues, or when to look.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from limelens.serve.bundle import Bundle, Metadata, load_bundle
from limelens.serve.bundle.folder import FILE_NAME as FILE_NAME
from limelens.serve.bundle.folder import LAYOUT, Entry, look_into
from limelens.serve.bundle.session import CPU
from limelens.serve.bundle.signatures import SIGNATURE_NAME, check_public_keys
from limelens.serve.bundle.warming import warm_up
from limelens.serve.errors import BundleError, InvalidRequestError, NotFoundError, UnavailableError
from limelens.serve.repository.canary import Canaries
from limelens.serve.repository.validation import Validator, read_checked, read_judged
from limelens.serve.repository.version_policy import ALL, VersionPolicy

WHOLE: Final = 0
"""In place of a version: refused is the whole model, or what is no version in its folder."""
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ModelVersion:
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
class RejectedVersion:
    """One version of one model that is there and does not answer.

    Where the same version answers all the same, it is what was loaded before its file changed.

    Args:
        name: The folder's name.
        version: 1, 2, 3 …; `WHOLE` is all that is in the folder, or what is no version there.
        reason: Why it was refused.
    """

    name: str
    version: int
    reason: str


@dataclass(frozen=True)
class Swaps:
    """What became of versions so far.

    Args:
        loaded: Versions that were loaded.
        refused: Verdicts against a file.
        taken_out: Versions that took over, failed, and were taken out again.
    """

    loaded: int = 0
    refused: int = 0
    taken_out: int = 0


Stamp = tuple[int, ...]
"""By this a file that changed, or its signature, is told from one that did not."""


@dataclass(frozen=True)
class ModelState:
    """All versions of one model; replaced whole."""

    served: Mapping[int, ModelVersion] = field(default_factory=dict)
    refused: Mapping[int, RejectedVersion] = field(default_factory=dict)
    stamps: Mapping[int, Stamp] = field(default_factory=dict)

    @cached_property
    def newest(self) -> ModelVersion | None:
        """What answers whoever names no version."""
        return self.served[max(self.served)] if self.served else None


Snapshot = Mapping[str, ModelState]
"""The state of all models at one moment, by name."""
Load = Callable[[Path, "Validator | None"], Bundle]
"""Loads a file, warm and ready to answer; a judge checks it first where one is given."""


class ModelVersions(abc.ABC):
    """What answers now, as those see it who are asked. Readers never wait."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[], None]] = []

    @property
    @abc.abstractmethod
    def snapshot(self) -> Snapshot:
        """The state of this moment."""

    @property
    @abc.abstractmethod
    def swaps(self) -> Swaps:
        """What became of versions so far."""

    @abc.abstractmethod
    def note(self, bundle: Bundle, *, ok: bool) -> None:
        """Takes notice of how an answer ended, so that a version that fails is taken out again.

        Args:
            bundle: Who was asked.
            ok: Whether it gave usable numbers.
        """

    @property
    def served(self) -> tuple[ModelVersion, ...]:
        """By name, then version."""
        models = self.snapshot
        return tuple(
            models[name].served[version]
            for name in sorted(models)
            for version in sorted(models[name].served)
        )

    @property
    def refused(self) -> tuple[RejectedVersion, ...]:
        """By name, then version."""
        models = self.snapshot
        return tuple(
            models[name].refused[version]
            for name in sorted(models)
            for version in sorted(models[name].refused)
        )

    def subscribe(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Calls a function, from any thread, after what is served or refused changed.

        Returns:
            Ends that; whoever goes before the repository does calls it. Twice is no error.
        """
        self._subscribers.append(on_change)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._subscribers.remove(on_change)

        return unsubscribe

    @property
    def num_failures(self) -> int:
        """How often a file was refused, those refused since then once more included."""
        return self.swaps.refused

    def get(self, name: str = "", version: int = 0) -> ModelVersion:
        """The model that is meant.

        Args:
            name: Empty means the only one.
            version: 0 means the newest that answers.

        Raises:
            InvalidRequestError: No name although several are served, or a negative version.
            NotFoundError: No such model or version; the message names what is served.
        """
        models = self.snapshot
        known = models.get(name)
        if not version and known is not None and known.newest is not None:
            return known.newest
        names = sorted(name for name, model in models.items() if model.served)
        if version < 0:
            raise InvalidRequestError("version", f"{version}; expected 1 or more, or 0 for newest")
        if not name:
            if len(names) != 1:
                raise InvalidRequestError("model", f"not given; expected one of {', '.join(names)}")
            name = names[0]
        model = models.get(name, ModelState())
        if model.newest is None:
            reasons = "; ".join(one.reason for one in model.refused.values())
            reason = f" (it was refused: {reasons})" if reasons else ""
            raise NotFoundError(
                f"no model {name[:100]!r} is served{reason}; there {_is_or_are(names)}",
                kind="model",
                name=name[:100],
            )
        if version and version not in model.served:
            refused = model.refused.get(version)
            reason = f" (it was refused: {refused.reason})" if refused else ""
            raise NotFoundError(
                f"no version {version} of {name!r} is served{reason}; there "
                f"{_is_or_are([str(v) for v in sorted(model.served)])}",
                kind="model version",
                name=f"{name}/{version}",
            )
        return model.served[version] if version else model.newest

    def _tell(self) -> None:
        for on_change in tuple(self._subscribers):
            on_change()


class Repository(ModelVersions):
    """What is served from one folder. Readers never wait, whatever is loaded beside them.

    Args:
        folder: Holds one folder for each model.
        device: As for `load_bundle`.
        num_threads: As for `load_bundle`.
        versions: Which versions are loaded.
        public_keys: Who may have signed; empty is anybody, and unsigned too.
        max_batch_size: Images that are joined into one run on a GPU.
        tf32: As for `load_bundle`.
        load: Loads a version where it is to run; None loads it in this process.

    Raises:
        BundleError: The folder is missing, holds no model, or only refused ones.
        ProviderError: `cuda` was asked for and cannot be used.
        SigningError: A public key cannot be used.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        device: str = "auto",
        *,
        num_threads: int | None = None,
        versions: VersionPolicy = ALL,
        public_keys: Sequence[Path] = (),
        max_batch_size: int = 64,
        tf32: bool = False,
        load: Load | None = None,
    ) -> None:
        super().__init__()
        self._folder = Path(folder)
        self._device = device
        self._num_threads = num_threads
        self._versions = versions
        self._public_keys = tuple(public_keys)
        self._max_batch_size = max_batch_size
        self._tf32 = tf32
        self._looking = threading.Lock()  # one look at a time
        self._lock = threading.Lock()  # held for the moment of a swap
        self._models: Mapping[str, ModelState] = {}
        self._trials = Canaries()
        self._swaps = Swaps()
        self._is_starting = True
        self._load = load or self._load_here
        if not self._find():
            raise BundleError(f"{self._folder}: no models in it; {LAYOUT}")
        if public_keys:
            check_public_keys(public_keys)
        self.refresh()
        self._is_starting = False
        if not self.served:
            reasons = "; ".join(refused.reason for refused in self.refused)
            raise BundleError(f"{self._folder}: every model in it was refused: {reasons}")

    @property
    def snapshot(self) -> Snapshot:
        """See `ModelVersions`."""
        return self._models

    @property
    def swaps(self) -> Swaps:
        """See `ModelVersions`."""
        return self._swaps

    @property
    def on_trial(self) -> frozenset[Bundle]:
        """Versions that must still prove themselves."""
        return self._trials.bundles

    def judge(self) -> Validator:
        """A judge of this repository's rules, for `refresh`."""
        runs_on_cpu = all(one.bundle.provider == CPU for one in self.served)
        return Validator(self._public_keys, run=runs_on_cpu)

    def refresh(
        self,
        *,
        judge: Validator | None = None,
        is_quiet: Callable[[Path, Stamp], bool] = lambda _path, _stamp: True,
    ) -> bool:
        """Loads what is new or changed, forgets what is gone.

        A changed file that is refused leaves the version that was served before in its place, and
        so does one that is not quiet yet. Each file is judged for itself: whatever is wrong with
        one, the others are loaded.

        Args:
            judge: Checks files elsewhere; None checks them in the calling thread, which others
                in this process may notice.
            is_quiet: Whether a file has been left alone for long enough to be judged.

        Returns:
            Whether anything changed.

        Raises:
            BundleError: The folder is gone or empty; what is loaded serves on.
            ProviderError: `cuda` was asked for, cannot be used, and nothing is left that answers.
            UnavailableError: The judge was stopped.
        """
        with self._looking:
            found = self._find()
            if not found and self.served:
                # A disk that was unmounted looks like this. Whoever wants nothing served any
                # more stops the server.
                raise BundleError(
                    f"{self._folder}: no models in it any more; what is loaded serves on"
                )
            changed = False
            failure: Exception | None = None
            for name in sorted({*found, *self._models}):
                before = self._models.get(name, ModelState())
                entry = found.get(name, Entry())
                # Of what cannot be read now, nothing is known to be gone.
                kept = {version: self._path(name, version) for version in before.served}
                look = _Scan(before, entry.versions if entry.is_readable else kept)
                try:
                    look.meet(name, entry.problem, functools.partial(is_quiet, self._folder / name))
                    if entry.is_readable:
                        self._look_at(name, look, judge, is_quiet)
                except UnavailableError:
                    raise
                except Exception as error:
                    failure = error
                changed |= self._swap(name, before, look)
            if failure is not None and not self.served:
                raise failure
        return changed

    def note(self, bundle: Bundle, *, ok: bool) -> None:
        """See `ModelVersions`."""
        back = self._trials.note(bundle, ok=ok)
        if back is not None:
            self._take_out(bundle, back)

    def _look_at(
        self,
        name: str,
        look: _Scan,
        judge: Validator | None,
        is_quiet: Callable[[Path, Stamp], bool],
    ) -> None:
        """Loads what is wanted of one model, best first."""
        failure: Exception | None = None
        wanted: set[int] = set()
        for version in self._versions.candidates(name, look.found):
            if self._versions.is_enough(name, len(wanted)):
                break
            path = look.found.get(version, self._path(name, version))
            stamp = stamp_of(path)
            if look.needs(version, stamp) and is_quiet(path, stamp):
                try:
                    bundle = self._load(path, judge)
                except UnavailableError:  # says nothing of the file
                    raise
                except Exception as error:
                    # Only a verdict on the file holds until it changes; anything else is tried
                    # again. What it said of a file that changed meanwhile is no verdict.
                    if stamp_of(path) == stamp:
                        look.refuse(
                            RejectedVersion(name, version, str(error)),
                            stamp if isinstance(error, BundleError) else None,
                        )
                        failure = failure if isinstance(error, BundleError) else error
                else:
                    look.serve(ModelVersion(name, version, bundle), stamp)
            if version in look.served:
                wanted.add(version)
        look.leave_only(wanted)
        if failure is not None:
            raise failure

    def _load_here(self, path: Path, judge: Validator | None) -> Bundle:
        if judge is None:
            data, metadata = read_checked(path, self._public_keys)
        else:
            data, metadata = read_judged(path, judge(path))
        return load_and_warm(
            path,
            (data, metadata),
            self._device,
            num_threads=self._num_threads,
            max_batch_size=self._max_batch_size,
            tf32=self._tf32,
            is_starting=judge is None,
        )

    def _swap(self, name: str, before: ModelState, look: _Scan) -> bool:
        """Puts the findings in place by one assignment: a reader sees the old state or the new."""
        with self._lock:
            now = self._models.get(name, ModelState())
            after = look.onto(now)
            changed = after.served != now.served or after.refused != now.refused
            if after.served or after.refused:
                self._models = {**self._models, name: after}
            else:
                self._models = {key: one for key, one in self._models.items() if key != name}
            self._swaps = replace(
                self._swaps,
                loaded=self._swaps.loaded + len(look.loaded),
                refused=self._swaps.refused + len(look.verdicts),
            )
            self._put_on_trial(now, after, look)
        self._log(name, before, after, look)
        if changed:
            self._tell()
        return changed

    def _log(self, name: str, before: ModelState, after: ModelState, look: _Scan) -> None:
        """What changes under a server that answers is news to whoever runs it; a start is not."""
        level = logging.INFO if self._is_starting else logging.WARNING
        for served in look.loaded:
            verb = "loaded again:" if served.version in before.served else "loaded"
            provider = served.bundle.provider
            _log.log(level, "%s %s version %d on %s", verb, name, served.version, provider)
        for refused in look.verdicts:
            if refused.version == WHOLE:
                _log.log(logging.WARNING if after.served else logging.ERROR, "%s", refused.reason)
            else:
                _log.error("refused %s version %d: %s", name, refused.version, refused.reason)
        for version in sorted(before.served.keys() - after.served.keys()):
            _log.log(level, "%s version %d is no longer served", name, version)

    def _put_on_trial(self, now: ModelState, after: ModelState, look: _Scan) -> None:
        """Whatever takes calls over from another must prove itself; the lock is held."""
        serving = {one.bundle for model in self._models.values() for one in model.served.values()}
        for served in look.loaded:
            last = now.served.get(served.version)
            if last is None and served is after.newest:
                last = now.newest
            if last is None or served.bundle not in serving:
                continue
            if last.bundle not in serving:
                # Unproven itself: what it took over from is the one to go back to, so that no
                # chain of sessions builds up.
                last = self._trials.before(last.bundle) or last
            self._trials.begin(served.bundle, last)
        self._trials.keep(serving)

    def _take_out(self, bundle: Bundle, back: ModelVersion) -> None:
        with self._lock:
            model = self._models.get(back.name, ModelState())
            failed = next((one for one in model.served.values() if one.bundle is bundle), None)
            if failed is None:
                return
            reason = (
                f"it was taken out again: after it took over, it failed several times in a row; "
                f"version {back.version} as it was before answers"
            )
            served = {key: one for key, one in model.served.items() if one is not failed}
            if failed.version == back.version or not served:
                served[back.version] = back
            refused = {
                **model.refused,
                failed.version: RejectedVersion(failed.name, failed.version, reason),
            }
            self._models = {
                **self._models,
                back.name: replace(model, served=served, refused=refused),
            }
            self._swaps = replace(self._swaps, taken_out=self._swaps.taken_out + 1)
        _log.error("%s version %d: %s", failed.name, failed.version, reason)
        self._tell()

    def _path(self, name: str, version: int) -> Path:
        return self._folder / name / str(version) / FILE_NAME

    def _find(self) -> dict[str, Entry]:
        try:
            return look_into(self._folder)
        except BundleError as error:
            if not self.served:
                raise
            raise BundleError(f"{error}; what is loaded serves on") from error


class _Scan:
    """What one look found out about one model.

    Args:
        before: As it was.
        found: The files of its versions.
    """

    def __init__(self, before: ModelState, found: Mapping[int, Path]) -> None:
        self.found = found
        self.served = {key: one for key, one in before.served.items() if key in found}
        self.refused = dict(before.refused)
        self.stamps = dict(before.stamps)
        self.loaded: list[ModelVersion] = []
        self.verdicts: list[RejectedVersion] = []
        self._before = before

    def needs(self, version: int, stamp: Stamp) -> bool:
        """Whether a version must be loaded to know whether it answers."""
        is_known = version in self.served or version in self.refused
        return not is_known or self.stamps.get(version) != stamp

    def serve(self, served: ModelVersion, stamp: Stamp) -> None:
        self.served[served.version] = served
        self.stamps[served.version] = stamp
        self.refused.pop(served.version, None)
        self.loaded.append(served)

    def refuse(self, refused: RejectedVersion, stamp: Stamp | None) -> None:
        if self.refused.get(refused.version) != refused:
            self.verdicts.append(refused)
        self.refused[refused.version] = refused
        if stamp is not None:
            self.stamps[refused.version] = stamp

    def meet(self, name: str, problem: str, is_quiet: Callable[[Stamp], bool]) -> None:
        """Refuses the model as a whole for a problem, or no longer where there is none.

        Args:
            name: Of the model.
            problem: What is wrong; empty where nothing is.
            is_quiet: Whether it has been so for long enough: whoever copies makes folders first.
        """
        known = self.refused.get(WHOLE)
        if not problem:
            self.refused.pop(WHOLE, None)
        elif (known is None or known.reason != problem) and is_quiet((hash(problem),)):
            self.refuse(RejectedVersion(name, WHOLE, problem), None)

    def leave_only(self, wanted: set[int]) -> None:
        """Drops what is not wanted, but never the last that answers while files are there."""
        last = self._before.newest
        kept = {key: one for key, one in self.served.items() if key in wanted}
        if not kept and self.found and last is not None:
            kept = {last.version: last}
        self.served = kept
        there = {WHOLE, *self.found, *wanted, *(one.version for one in self.verdicts)}
        self.refused = {key: one for key, one in self.refused.items() if key in there}
        self.stamps = {key: one for key, one in self.stamps.items() if key in there}

    def onto(self, now: ModelState) -> ModelState:
        """The model with these findings; what changed since in other ways stays changed."""
        served = _merged(self._before.served, self.served, now.served)
        refused = _merged(self._before.refused, self.refused, now.refused)
        return ModelState(served, refused, self.stamps)


def ready_line(address: str, repository: ModelVersions, processes: int = 1) -> str:
    """What is served, where and on what.

    Args:
        address: Where.
        repository: What; the threads are those of all processes.
        processes: That listen there.
    """
    served = repository.served
    names = ", ".join(f"{one.name} {one.version}" for one in served)
    places = sorted(
        {
            f"{one.bundle.provider}, {one.bundle.num_threads} threads"
            if one.bundle.provider == CPU
            else one.bundle.provider
            for one in served
        }
    )
    crowd = f"{processes} processes; " if processes > 1 else ""
    return f"limelens: serving {names} on {address} ({crowd}{'; '.join(places)})"


def load_and_warm(
    path: Path,
    checked: tuple[bytes, Metadata],
    device: str,
    *,
    num_threads: int | None,
    max_batch_size: int,
    tf32: bool = False,
    is_starting: bool = False,
    chunk: int | None = 0,
) -> Bundle:
    """Loads a bundle whose bytes were checked, and makes the first runs.

    Args:
        path: Where it was read from.
        checked: The bytes, and what they say of themselves.
        device: As for `load_bundle`.
        num_threads: As for `load_bundle`.
        max_batch_size: Images that are joined into one run on a GPU.
        tf32: As for `load_bundle`.
        is_starting: Nothing is served yet: what only explanations need is made ready behind it.
        chunk: As for `load_bundle`; where None waits to be told, nothing else is made ready.

    Raises:
        BundleError: It is refused; the message says why.
        ProviderError: The device that was asked for cannot be used.
    """
    bundle = load_bundle(
        path,
        device,
        num_threads=num_threads,
        tf32=tf32,
        max_batch_size=max_batch_size,
        few_sizes=is_starting,
        chunk=chunk,
        read=lambda _path: checked,
    )
    if bundle.provider == CPU:
        warm_up(bundle)
    elif chunk is not None and is_starting:
        threading.Thread(target=bundle.prepare, name="limelens-prepare", daemon=True).start()
    elif chunk is not None:
        bundle.prepare()
    return bundle


def stamp_of(path: Path) -> Stamp:
    """By what a bundle, or its signature, is seen to have changed; zeros where it is missing."""
    stamp: list[int] = []
    for file in (path, path.with_name(SIGNATURE_NAME)):
        try:
            status = file.stat()
        except OSError:
            stamp += [0, 0, 0, 0]
        else:
            may_read = os.access(file, os.R_OK)  # changes without anything else
            stamp += [status.st_mtime_ns, status.st_size, status.st_ino, may_read]
    return tuple(stamp)


def _merged(
    before: Mapping[int, _T], found: Mapping[int, _T], now: Mapping[int, _T]
) -> dict[int, _T]:
    """What was found, but for what a look left as it was: that is as it is now."""
    merged = dict(found)
    for version in {*before, *now}:
        if found.get(version) is before.get(version):
            merged.pop(version, None)
            if version in now:
                merged[version] = now[version]
    return merged


def _is_or_are(names: list[str]) -> str:
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(names)}"
