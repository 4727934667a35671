"""Which versions may take over, if those that are clearly worse are held back.

Each version that would take over is judged against the one that it would replace, the oldest
first, so that a start comes to the same result as a server that saw them come one by one. This
module knows the order and what follows from a judgement; it neither judges nor loads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from limelens.serve.errors import BundleError
from limelens.serve.repository.judging import Rival
from limelens.serve.repository.model_version import (
    ModelScan,
    ModelVersion,
    RejectedVersion,
    Stamp,
    stamp_of,
)
from limelens.serve.repository.validation import Validate, ValidationResult

_log = logging.getLogger(__name__)

Judge = Callable[[Path, Rival], ValidationResult]
"""Validates a file and judges it against the version that it would replace."""


@dataclass(frozen=True)
class Cleared:
    """A version that may be loaded if its file still has this stamp.

    Args:
        result: What validating it found; None if it is still to be validated.
    """

    stamp: Stamp
    result: ValidationResult | None = None

    @property
    def validator(self) -> Validate | None:
        """Gives the result that is there already; None if there is none."""
        result = self.result
        return None if result is None else lambda _path: result


def clear_versions(
    name: str, scan: ModelScan, judge: Judge, is_quiet: Callable[[Path, Stamp], bool]
) -> dict[int, Cleared]:
    """Judges the versions of a model that would take over; rejects in the scan what is worse.

    Older versions than the newest one that is served take nothing over, and neither does the oldest
    of all. A version that was held back is judged again when its file changes, or when the version
    that it was judged against is gone.

    Args:
        name: Of the model.
        scan: Its versions.
        judge: See `Judge`; called in this thread.
        is_quiet: Files that are not quiet are left for a later scan.

    Returns:
        The versions that may be loaded.

    Raises:
        UnavailableError: The validator was stopped.
    """
    cleared: dict[int, Cleared] = {}
    newest = max(scan.served, default=0)
    standing: list[Rival] = []  # of the versions up to here, the last one takes the calls
    for version, path in sorted(scan.found.items()):
        served, stamp = scan.served.get(version), stamp_of(path)
        if version < newest and served is None:
            cleared[version] = Cleared(stamp)
            continue
        rejected = scan.rejected.get(version)
        if rejected and rejected.held_back_by and rejected.held_back_by not in scan.found:
            scan.reconsider(version)
        if scan.needs(version, stamp) and is_quiet(path, stamp):
            rivals = standing if served is None else [_rival(served, "the file before it")]
            found = _judged(name, version, stamp, scan, rivals, judge)
            if found is not None:
                cleared[version] = found
                if served is None:
                    standing.append(Rival(version, f"version {version}", path))
        if served is not None:
            standing.append(_rival(served, f"version {version}"))
    return cleared


def _judged(
    name: str, version: int, stamp: Stamp, scan: ModelScan, rivals: list[Rival], judge: Judge
) -> Cleared | None:
    """Judges a version against the last of its rivals that can be used; None if it must wait."""
    path = scan.found[version]
    result: ValidationResult | None = None
    while rivals:
        try:
            result = judge(path, rivals[-1])
        except BundleError as error:
            if stamp_of(path) == stamp:
                scan.reject(RejectedVersion(name, version, str(error)), stamp)
            return None
        judgement = result.judgement
        if judgement is None or judgement.is_rival_usable or rivals[-1].data:
            break
        rivals.pop()
    if stamp_of(path) != stamp:
        return None
    if result is None or not rivals:
        return Cleared(stamp, result)
    judgement = result.judgement
    assert judgement is not None
    if not judgement.is_judged:
        text = "%s version %d takes over without being judged: %s"
        _log.warning(text, name, version, judgement.text)
    elif judgement.is_worse:
        reason = f"held back: {judgement.text}"
        scan.reject(RejectedVersion(name, version, reason, rivals[-1].version), stamp)
        return None
    else:
        _log.info("%s version %d may take over: %s", name, version, judgement.text)
    return Cleared(stamp, result)


def _rival(served: ModelVersion, words: str) -> Rival:
    return Rival(served.version, words, served.bundle.path, served.bundle.file)
