"""What lies in the folder of a run, and what can be refused by looking at paths alone.

It loads neither torch nor a checkpoint, so that a slip of the pen costs no seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from limelens.serve.errors import LimelensError
from limelens.serve.folders import label_name
from limelens.train.config import ConfigError, TrainConfig
from limelens.train.data.label_table import Images, read_macro_labels
from limelens.train.data.listing import find_split, list_data

BEST: Final = "best.pt"
LAST: Final = "last.pt"


class CheckpointError(LimelensError):
    """A checkpoint is missing, damaged, or another program's; the message names the file."""


def holds_run(folder: Path) -> bool:
    """Whether a folder has a checkpoint."""
    return any((folder / name).exists() for name in (BEST, LAST))


def check_run_or_model(path: Path) -> None:
    """Refuses a path that is neither a run, nor a checkpoint, nor a bundle.

    Raises:
        CheckpointError: It is none of them.
    """
    if path.is_file() or (path.is_dir() and (holds_run(path) or (path / "model.onnx").exists())):
        return
    found = "a folder without best.pt, last.pt or model.onnx" if path.is_dir() else "not there"
    raise CheckpointError(
        f"{path} is {found}; expected a run of `limelens train`, a .pt checkpoint or a .onnx bundle"
    )


def check_run(path: Path) -> None:
    """Refuses a path that is no run and no checkpoint.

    Raises:
        CheckpointError: It is none.
    """
    if not (path.is_file() or holds_run(path)):
        raise CheckpointError(f"{path} is not there; expected a run of `limelens train`")


def check_training(
    data: Path,
    out: Path,
    config: TrainConfig,
    *,
    images: Images = None,
    macro: Path | None = None,
    resume: bool = False,
) -> None:
    """Refuses what `train` would refuse, as far as paths, splits and labels tell.

    Args:
        data: As for `train`.
        out: As for `train`.
        config: As for `train`.
        images: As for `train`.
        macro: As for `train`.
        resume: As for `train`.

    Raises:
        DataError: The data cannot be used.
        ConfigError: `out` holds a run, or an alert label is none of the data's.
        CheckpointError: The run to start from is not there.
    """
    check_out(out, resume=resume)
    if config.start_from is not None:
        check_run(Path(config.start_from))
    listing = list_data(data, images).for_task(data, config.task)
    check_alert_labels(config.alert_labels, listing.labels)
    if macro is not None:
        read_macro_labels(macro, listing.labels)


def check_out(out: Path, *, resume: bool) -> None:
    """Refuses a folder that holds a run already.

    Raises:
        ConfigError: It does.
    """
    if not resume and holds_run(out):
        raise held(out)


def held(out: Path) -> ConfigError:
    """What is said of a folder that holds a run already."""
    return ConfigError(
        f"{out} already holds a run; choose another folder (--out), take it away, or go on with it "
        "(--resume)"
    )


def check_alert_labels(alert_labels: Sequence[str], labels: Sequence[str]) -> None:
    """Refuses an alert label that the data does not have.

    Raises:
        ConfigError: There is one.
    """
    unknown = sorted({*alert_labels} - {*map(label_name, labels)})
    if unknown:
        raise ConfigError(
            f"alert label {unknown[0]!r} is none of the labels {', '.join(labels)}; name one of "
            "them (--alert-label)"
        )


def check_split(data: Path, split: str | None, images: Images = None) -> None:
    """Refuses data that cannot be read, or that lacks a split.

    Args:
        data: As for `evaluate`.
        split: As for `evaluate`.
        images: As for `evaluate`.

    Raises:
        DataError: Either.
    """
    find_split(data, split, images)
