"""The files of a run's folder, and checks that need only paths.

It loads neither torch nor a checkpoint, so that wrong arguments are reported without delay.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from limelens.serve.bundle.folder import FILE_NAME, bundle_in
from limelens.serve.errors import LimelensError
from limelens.serve.folders import label_name
from limelens.train import run_lock
from limelens.train.config import ConfigError, TrainConfig
from limelens.train.data.label_table import Images, read_macro_labels
from limelens.train.data.listing import list_data

BEST: Final = "best.pt"
LAST: Final = "last.pt"
ROWS: Final = "metrics.csv"
REPORT: Final = "report.html"
ANOTHER_FOLDER: Final = ", or choose another folder (--out)"

_log = logging.getLogger(__name__)


class CheckpointError(LimelensError):
    """A checkpoint is missing, damaged, or another program's; the message names the file."""


def holds_run(folder: Path) -> bool:
    """Whether a folder has a checkpoint."""
    return any((folder / name).exists() for name in (BEST, LAST))


def read_rows(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv in a run's folder, or beside a checkpoint; empty without the file."""
    table = (run if run.is_dir() else run.parent) / ROWS
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def is_bundle(run_or_model: Path) -> bool:
    """Whether a path names a bundle, rather than a run or a checkpoint."""
    return run_or_model.suffix == ".onnx" or (run_or_model / FILE_NAME).exists()


def check_run_or_model(path: Path) -> None:
    """Refuses a path that is neither a run, nor a checkpoint, nor a bundle.

    Notes it if it is a run that is still written.

    Raises:
        CheckpointError: It is none of these.
        BundleError: It is the folder of a model, whose versions are bundles.
    """
    if not (path.is_file() or holds_run(path) or bundle_in(path).exists()):
        found = "a folder without best.pt, last.pt or model.onnx" if path.is_dir() else "not there"
        raise CheckpointError(
            f"{path} is {found}{_so_far(path)}; expected a run of `limelens train`, a .pt "
            "checkpoint or a .onnx bundle"
        )
    _note_writer(path)


def check_run(path: Path) -> None:
    """Refuses a path that is neither a run nor a checkpoint; notes it if it is still written."""
    if not (path.is_file() or holds_run(path)):
        found = "has neither best.pt nor last.pt" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {found}{_so_far(path)}; expected a run of `limelens train`")
    _note_writer(path)


def check_best(run: Path) -> None:
    """Refuses a path that is not the folder of a run with a finished epoch."""
    if not (run / BEST).is_file():
        found = "is a file" if run.is_file() else "does not exist"
        found = "has no best.pt" if run.is_dir() else found
        raise CheckpointError(
            f"{run} {found}{_so_far(run)}; expected the folder of a run of `limelens train`"
        )


def _so_far(run: Path) -> str:
    """Why a run may have no checkpoint."""
    writer = run_lock.writer_of(run)
    return "" if writer is None else f" yet, since its first epoch has not ended: {writer}"


def _note_writer(path: Path) -> None:
    run = path if path.is_dir() else path.parent
    if (writer := run_lock.writer_of(run)) is not None:
        _log.info("%s still writes into %s: this is about its best epoch so far", writer, run)


def check_training(
    data: Path,
    out: Path,
    config: TrainConfig,
    *,
    images: Images = None,
    macro: Path | None = None,
    resume: bool = False,
) -> None:
    """Refuses what `train` would refuse because of paths, splits or labels.

    The arguments are those of `train`.

    Raises:
        DataError: The data cannot be used.
        ConfigError: `out` holds a run, or the data lacks an alert label.
        CheckpointError: The run to start from, or to learn from, does not exist.
    """
    if not resume and holds_run(out):
        raise holds_run_error(out)
    for other in (config.start_from, config.teacher):
        if other is not None:
            check_run(Path(other))
    listing = list_data(data, images, config.task)
    check_alert_labels(config.alert_labels, listing.labels)
    if macro is not None:
        read_macro_labels(macro, listing.labels)


def holds_run_error(out: Path) -> ConfigError:
    """The error about a folder that already holds a run."""
    return ConfigError(
        f"{out} already holds a run; choose another folder (--out), move it away, or continue it "
        "(--resume)"
    )


def check_alert_labels(alert_labels: Sequence[str], labels: Sequence[str]) -> None:
    """Refuses alert labels that the data does not have."""
    unknown = sorted({*alert_labels} - {*map(label_name, labels)})
    if unknown:
        raise ConfigError(
            f"alert label {unknown[0]!r} is not one of the labels {', '.join(labels)}; name one of "
            "them (--alert-label)"
        )
