"""The models of a folder: models/<name>/<version>/model.onnx, the layout of Triton.

It scans the folder, loads the versions that the policy wants, keeps the reason for those that are
refused or held back, and rolls back a version that took over and fails. It knows nothing of
requests or queues, nor when to scan.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from limelens.serve.bundle import Bundle
from limelens.serve.bundle.devices import CPU
from limelens.serve.bundle.execution.batch_sizes import MAX_BATCH_SIZE
from limelens.serve.bundle.folder import FILE_NAME, LAYOUT, Entry, look_into
from limelens.serve.bundle.loading import load_and_warm
from limelens.serve.bundle.signatures import check_public_keys
from limelens.serve.errors import BundleError, UnavailableError
from limelens.serve.repository.canary import Canaries
from limelens.serve.repository.hold_back import Cleared, clear_versions
from limelens.serve.repository.judging import read_checked
from limelens.serve.repository.model_version import (
    WHOLE,
    LoadCounts,
    ModelScan,
    ModelState,
    ModelVersion,
    RejectedVersion,
    Snapshot,
    Stamp,
    stamp_of,
)
from limelens.serve.repository.registry import ModelRegistry
from limelens.serve.repository.validation import Validate, Validator, read_validated
from limelens.serve.repository.version_policy import ALL, VersionPolicy
from limelens.serve.wording import listed

Load = Callable[[Path, "Validate | None"], Bundle]
"""Loads a file, warm and ready to run; it is validated first, if that is given."""
IsQuiet = Callable[[Path, Stamp], bool]
"""Whether a file has been left alone for long enough to be loaded."""
_log = logging.getLogger(__name__)


class Repository(ModelRegistry):
    """The versions in one folder. Readers never wait, whatever is loaded meanwhile.

    Other arguments are those of `load_bundle`.

    Args:
        versions: Which versions are loaded.
        public_keys: A bundle must be signed with one of these; empty accepts unsigned bundles.
        hold_back: Whether a version that is clearly worse than the one that it would replace is
            not served, unless the versions of its model are pinned.
        hold_back_images: As `hold_back`, judged by a folder of images for each label; None judges
            by the golden images in the bundles.
        load: Loads a version where it is to run; None loads it in this process.
        validator: Judges versions while the repository is opened; None makes one.
        tries_on_cpu: Whether new versions are first run on the CPU, in a process of their own,
            even if they are served by another device.

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
        max_batch_size: int = MAX_BATCH_SIZE,
        tf32: bool = False,
        hold_back: bool = False,
        hold_back_images: Path | None = None,
        load: Load | None = None,
        validator: Validator | None = None,
        tries_on_cpu: bool = False,
    ) -> None:
        super().__init__()
        self._folder = Path(folder)
        self._versions = versions
        self._public_keys = tuple(public_keys)
        self._hold_back = hold_back or hold_back_images is not None
        self._images = hold_back_images
        self._tries_on_cpu = tries_on_cpu
        self._judging = validator or Validator(public_keys, run=False)
        self._load_and_warm = functools.partial(
            load_and_warm,
            device=device,
            num_threads=num_threads,
            max_batch_size=max_batch_size,
            tf32=tf32,
        )
        self._scanning = threading.Lock()  # one scan at a time
        self._lock = threading.Lock()  # held for the moment of a swap
        self._models: Snapshot = {}
        self._canaries = Canaries()
        self._counts = LoadCounts()
        self._is_starting = True
        self._load = load or self._load_here
        if not self._find():
            raise BundleError(f"{self._folder}: no models in it; {LAYOUT}")
        if public_keys:
            check_public_keys(public_keys)
        self.refresh()
        self._is_starting = False
        if not self.served:
            reasons = listed([rejected.reason for rejected in self.rejected])
            raise BundleError(f"{self._folder}: every model in it was refused: {reasons}")

    @property
    def snapshot(self) -> Snapshot:
        """See `ModelRegistry`."""
        return self._models

    @property
    def load_counts(self) -> LoadCounts:
        """See `ModelRegistry`."""
        return self._counts

    @property
    def canaries(self) -> frozenset[Bundle]:
        """Versions that have yet to prove themselves."""
        return self._canaries.bundles

    def validator(self) -> Validator:
        """A validator with this repository's rules, for `refresh`."""
        are_on_cpu = all(one.bundle.provider == CPU for one in self.served)
        return Validator(self._public_keys, run=are_on_cpu or self._tries_on_cpu)

    def refresh(
        self,
        *,
        validator: Validator | None = None,
        is_quiet: IsQuiet = lambda _path, _stamp: True,
    ) -> bool:
        """Loads what is new or changed, forgets what is gone; returns whether anything changed.

        If a changed file is refused, or not quiet yet, the version that was loaded before stays in
        use. A fault of one file never keeps another from being loaded.

        Args:
            validator: Checks files in another process; None checks them in the calling thread,
                which delays others in this process.
            is_quiet: Files that are not quiet are left for a later scan.

        Raises:
            BundleError: The folder is gone or empty; loaded versions stay in use.
            ProviderError: `cuda` was asked for, cannot be used, and nothing is left to serve.
            UnavailableError: The validator was stopped.
        """
        with self._scanning:
            is_quiet = functools.cache(is_quiet)  # it may ask again, of a file that was judged
            found = self._find()
            if not found and self.served:
                # This is what a disk that was unmounted looks like; to serve nothing any more,
                # an operator stops the server.
                raise BundleError(
                    f"{self._folder}: no models in it any more; loaded versions stay in use"
                )
            changed = False
            failure: Exception | None = None
            for name in sorted({*found, *self._models}):
                before = self._models.get(name, ModelState())
                entry = found.get(name, Entry())
                # If the folder cannot be read now, nothing is known to be gone.
                kept = {version: self._path(name, version) for version in before.served}
                scan = ModelScan(before, entry.versions if entry.is_readable else kept)
                model_is_quiet = functools.partial(is_quiet, self._folder / name)
                try:
                    scan.check_whole(name, entry.problem, model_is_quiet)
                    if entry.is_readable:
                        self._load_wanted(name, scan, validator, is_quiet)
                except UnavailableError:
                    raise
                except Exception as error:
                    failure = error
                changed |= self._swap(name, before, scan)
            if failure is not None and not self.served:
                raise failure
        return changed

    def record(self, bundle: Bundle, *, ok: bool) -> None:
        """See `ModelRegistry`."""
        predecessor = self._canaries.record(bundle, ok=ok)
        if predecessor is not None:
            self._roll_back(bundle, predecessor)

    def _load_wanted(
        self, name: str, scan: ModelScan, validator: Validator | None, is_quiet: IsQuiet
    ) -> None:
        """Loads the wanted versions of one model, best first."""
        failure: Exception | None = None
        wanted: set[int] = set()
        cleared: Mapping[int, Cleared] = {}
        is_judged = self._hold_back and not self._versions.pins(name)
        if is_judged:
            check = functools.partial(validator or self._judging, images=self._images)
            cleared = clear_versions(name, scan, check, is_quiet)
        for version in self._versions.candidates(name, scan.found):
            if self._versions.is_enough(name, len(wanted)):
                break
            path = scan.found.get(version, self._path(name, version))
            stamp = stamp_of(path)
            one = cleared.get(version, Cleared(() if is_judged else stamp))
            if scan.needs(version, stamp) and one.stamp == stamp and is_quiet(path, stamp):
                try:
                    bundle = self._load(path, one.validator or validator)
                except UnavailableError:  # no fault of the file
                    raise
                except Exception as error:
                    # A file that changed meanwhile is tried at the next scan. A BundleError holds
                    # until the file changes; whatever else went wrong is tried again.
                    if stamp_of(path) == stamp:
                        is_final = isinstance(error, BundleError)
                        rejected = RejectedVersion(name, version, str(error))
                        scan.reject(rejected, stamp if is_final else None)
                        failure = failure if is_final else error
                else:
                    scan.serve(ModelVersion(name, version, bundle), stamp)
            if version in scan.served:
                wanted.add(version)
        scan.keep_only(wanted)
        if failure is not None:
            raise failure

    def _load_here(self, path: Path, validate: Validate | None) -> Bundle:
        if validate is None:
            checked = read_checked(path, self._public_keys)
        else:
            checked = read_validated(path, validate(path))
        bundle = self._load_and_warm(path, checked, is_starting=self._is_starting)
        # A version that follows is judged against these bytes, whatever is in the file by then.
        return replace(bundle, file=checked[0]) if self._hold_back else bundle

    def _swap(self, name: str, before: ModelState, scan: ModelScan) -> bool:
        """Applies a scan by one assignment: a reader sees the old state or the new."""
        with self._lock:
            now = self._models.get(name, ModelState())
            after = scan.applied_to(now)
            changed = after.served != now.served or after.rejected != now.rejected
            if after.served or after.rejected:
                self._models = {**self._models, name: after}
            else:
                self._models = {key: one for key, one in self._models.items() if key != name}
            num_held_back = sum(one.held_back_by > 0 for one in scan.newly_rejected)
            self._counts = replace(
                self._counts,
                loaded=self._counts.loaded + len(scan.newly_loaded),
                rejected=self._counts.rejected + len(scan.newly_rejected) - num_held_back,
                held_back=self._counts.held_back + num_held_back,
            )
            self._begin_canaries(now, after, scan)
        self._log(name, before, after, scan)
        if changed:
            self._notify()
        return changed

    def _log(self, name: str, before: ModelState, after: ModelState, scan: ModelScan) -> None:
        """Logs changes; under a server that already serves, an operator must see them."""
        level = logging.INFO if self._is_starting else logging.WARNING
        for one in scan.newly_loaded:
            verb = "loaded again:" if one.version in before.served else "loaded"
            _log.log(level, "%s %s version %d on %s", verb, name, one.version, one.bundle.provider)
        for rejected in scan.newly_rejected:
            if rejected.version == WHOLE:
                _log.log(logging.WARNING if after.served else logging.ERROR, "%s", rejected.reason)
            elif rejected.held_back_by:
                _log.warning("%s version %d is %s", name, rejected.version, rejected.reason)
            else:
                _log.error("refused %s version %d: %s", name, rejected.version, rejected.reason)
        for version in sorted(before.served.keys() - after.served.keys()):
            _log.log(level, "%s version %d is no longer served", name, version)

    def _begin_canaries(self, now: ModelState, after: ModelState, scan: ModelScan) -> None:
        """Makes each version that takes calls over from another a canary; the lock is held."""
        serving = {one.bundle for model in self._models.values() for one in model.served.values()}
        for loaded in scan.newly_loaded:
            last = now.served.get(loaded.version)
            if last is None and loaded is after.newest:
                last = now.newest
            if last is None or loaded.bundle not in serving:
                continue
            if last.bundle not in serving:
                # If that was a canary itself, go back to its predecessor, so that no chain of
                # sessions builds up.
                last = self._canaries.predecessor(last.bundle) or last
            self._canaries.begin(loaded.bundle, last)
        self._canaries.keep(serving)

    def _roll_back(self, bundle: Bundle, predecessor: ModelVersion) -> None:
        name, version = predecessor.name, predecessor.version
        with self._lock:
            model = self._models.get(name, ModelState())
            failed = next((one for one in model.served.values() if one.bundle is bundle), None)
            if failed is None:
                return
            reason = (
                "it was rolled back: after it took over, it failed several times in a row; "
                f"version {version} as it was before is served"
            )
            served = {key: one for key, one in model.served.items() if one is not failed}
            if failed.version == version or not served:
                served[version] = predecessor
            rejected = RejectedVersion(name, failed.version, reason)
            state = replace(
                model, served=served, rejected={**model.rejected, failed.version: rejected}
            )
            self._models = {**self._models, name: state}
            self._counts = replace(self._counts, rolled_back=self._counts.rolled_back + 1)
        _log.error("%s version %d: %s", name, failed.version, reason)
        self._notify()

    def _path(self, name: str, version: int) -> Path:
        return self._folder / name / str(version) / FILE_NAME

    def _find(self) -> Mapping[str, Entry]:
        try:
            return look_into(self._folder)
        except BundleError as error:
            if not self.served:
                raise
            raise BundleError(f"{error}; loaded versions stay in use") from error
