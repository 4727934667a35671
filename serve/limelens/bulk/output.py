"""The folder of the output: who may write there, what is in it, and what of it is whole.

    FOLDER/part-0001-000000.parquet     rows; by their footers it is known which images are done
    FOLDER/_limelens/manifest.json      what of, and by what
                     lock               held by the run that writes
                     staging            the run's own; whatever is not a part yet

A run begins by moving the staging folder of the run before out of the way. From then on no worker
that outlived it can finish a part, so that what is in the folder stays true while the rest is
planned.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from limelens.bulk.decided import Decided
from limelens.bulk.part import parts_in, read_footer
from limelens.bulk.sources import Source
from limelens.serve.about import package_version
from limelens.serve.errors import LimelensError
from limelens.serve.files import sync_folder, write_whole
from limelens.serve.wording import listed

STATE: Final = "_limelens"
_FORMAT: Final = 1
_MANIFEST: Final = {"input": dict, "files": dict, "work": str, "made_by": dict, "runs": int}
AGAIN: Final = "name another --out, or begin again with --restart"


class OutputError(LimelensError):
    """The output belongs to other work, to another run, or to somebody else."""


@dataclass(frozen=True)
class Written:
    """What is in the output: digests of its images, sorted, and counts of its rows."""

    digests: NDArray[np.uint64]
    errors: Mapping[str, int]
    decided: Decided


@dataclass(frozen=True)
class Output:
    """A folder that this run may write to.

    Args:
        folder: With the parts.
        staging: For what is no part yet; empty.
        run: The number of this run, from 1.
        written: What earlier runs wrote.
    """

    folder: Path
    staging: Path
    run: int
    written: Written


@contextlib.contextmanager
def open_output(
    folder: Path,
    source: Source,
    fingerprint: str,
    made_by: Mapping[str, str],
    *,
    restart: bool = False,
) -> Iterator[Output]:
    """Takes a folder for a run.

    Args:
        folder: It is made if it does not exist.
        source: What is read.
        fingerprint: Of the work.
        made_by: The same in words, for the message if it differs.
        restart: Removes what earlier runs wrote.

    Raises:
        OutputError: It holds something else, or the output of another input or other work, or
            another run writes there.
        OSError: It cannot be written.
    """
    state = folder / STATE
    manifest = state / "manifest.json"
    if folder.exists() and not state.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty; expected a new folder, or one of limelens bulk")
    state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(f"{folder}: another limelens bulk is writing there") from None
    try:
        before = _read(manifest)
        staging = _fence(state)
        if restart:
            for part in parts_in(folder):
                part.unlink()
        elif before is not None:
            _check_same(folder, before, source, fingerprint, made_by)
        run = 1 + (before["runs"] if before else 0)
        document = {
            "format": _FORMAT,
            "limelens": package_version(),
            "input": dict(source.made_of),
            # Those of earlier runs are in the output as well.
            "files": {**(before["files"] if before and not restart else {}), **source.files},
            "work": fingerprint,
            "made_by": dict(made_by),
            "runs": run,
        }
        write_whole(manifest, json.dumps(document, indent=2) + "\n")
        written = read_written(folder)
        staging.mkdir()
        yield Output(folder, staging, run, written)
        shutil.rmtree(staging, ignore_errors=True)
    finally:
        lock.release()


def read_written(folder: Path) -> Written:
    """What the parts of a folder say; one that is damaged, by a loss of power, is removed.

    Raises:
        OutputError: An image is in two parts.
    """
    found = [np.empty(0, np.uint64)]
    errors: Counter[str] = Counter()
    decided = Decided()
    for part in parts_in(folder):
        try:
            footer = read_footer(part)
        except (pa.ArrowException, ValueError):
            part.unlink()
            continue
        found.append(footer.digests)
        errors.update(footer.errors)
        decided += footer.decided
    digests = np.sort(np.concatenate(found))
    if num_twice := int((digests[1:] == digests[:-1]).sum()):
        raise OutputError(f"{folder}: {num_twice} images are there twice; begin with --restart")
    return Written(digests, errors, decided)


def _fence(state: Path) -> Path:
    """Moves the staging folder out of every worker's reach; its name is free then."""
    staging = state / "staging"
    away = state / f"old-{secrets.token_hex(4)}"
    with contextlib.suppress(FileNotFoundError):
        staging.rename(away)
        sync_folder(state)
    for old in state.glob("old-*"):
        shutil.rmtree(old, ignore_errors=True)
    return staging


def _read(manifest: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(manifest.read_bytes())
        found = document["format"]
        if found != _FORMAT:
            raise OutputError(
                f"{manifest}: format {found}, of limelens {document['limelens']}; expected "
                f"{_FORMAT}; use that version, or name another --out"
            )
        if any(not isinstance(document[name], kind) for name, kind in _MANIFEST.items()):
            raise TypeError
        return dict(document)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{manifest} cannot be read; name another --out") from error


def _check_same(
    folder: Path,
    before: Mapping[str, Any],
    source: Source,
    fingerprint: str,
    made_by: Mapping[str, str],
) -> None:
    differing = _differing(before["input"], source.made_of)
    if differing:
        raise OutputError(f"{folder} is of another input: {listed(differing)}; {AGAIN}")
    if changed := changed_files(before["files"], source.files):
        raise OutputError(f"{folder}: the input has changed since: {changed}; {AGAIN}")
    if before["work"] != fingerprint:
        differing = _differing(_as_options(before["made_by"]), _as_options(made_by))
        differing = differing or ["its content"]
        raise OutputError(
            f"{folder} was made with another model or other options: {listed(differing)}; {AGAIN}"
        )


def changed_files(before: Mapping[str, Sequence[int]], now: Mapping[str, Sequence[int]]) -> str:
    """The names of files that are in both and not the same, in words; empty if there are none."""
    changed = [name for name, one in now.items() if [*before.get(name, one)] != [*one]]
    return listed(changed, ", ", most=3)


def _as_options(made_by: Mapping[str, str]) -> dict[str, str]:
    """What work was made by, as it is typed."""
    return {
        name if name == "command" else f"--{name.replace('_', '-')}": value
        for name, value in made_by.items()
    }


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [
        f"{name} was {before.get(name, 'not given')} and is {now.get(name, 'not given')}"
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name)
    ]
