"""The settings of a training run: their values, their checks, their file.

It knows names and ranges, and nothing of what a setting does.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from limelens.serve.bundle import Task
from limelens.serve.errors import LimelensError
from limelens.serve.folders import label_name
from limelens.serve.image import ResizeMode, ResizeRule

PRESETS: Final = ("none", "light", "standard", "strong")
"""Of augmentation."""
SCHEDULES: Final = ("one-cycle", "cosine")
BALANCES: Final = ("none", "sample", "weight")
MIXES: Final = ("none", "mixup", "cutmix", "both")
MIXED_PRECISIONS: Final = ("auto", "off", "bf16")
_CHOICES: Final = {
    "schedule": SCHEDULES,
    "augment": PRESETS,
    "mix": MIXES,
    "balance": BALANCES,
    "mixed_precision": MIXED_PRECISIONS,
}

_OPTIONS: Final = {"alert_labels": "alert_label"}
"""Options that are not called as their setting."""

_OPEN: Final[Any] = None
"""Of a setting that is chosen for the data once it is read (`training.suited`)."""
_OPEN_TYPES: Final = {"epochs": int, "batch_size": int, "learning_rate": float}
OPEN_SETTINGS: Final = ("input_size", *_OPEN_TYPES)


class ConfigError(LimelensError):
    """A setting has a value that cannot be used."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines the result of a run; `config.json` holds it.

    Settings that are None are chosen for the data once it is read: see `training.suited`.

    Args:
        task: None derives it from the data.
        val_from_train: Choose epoch and calibration on a tenth of train, not on the data's val.
        input_size: Height and width in pixels; None takes the architecture's, as a rectangle if the
            images are oblong.
        epochs: Passes over the training images; None takes more for few images.
        batch_size: Images per step, over all processes, at least 2; None takes fewer for few
            images.
        learning_rate: The highest of the schedule; None takes one that suits the batch size.
        label_smoothing: 0 to below 1; for multilabel towards each label's share.
        dropout: Before the last layer, 0 to below 1, in addition to the architecture's own.
        ema_decay: Decay per step of the averaged weights that are evaluated and kept; 0 keeps
            the plain weights.
        patience: Number of epochs without improvement that end the run; 0 never ends it.
        augment: A preset of `augmentation`.
        min_crop: The smallest share of an image that a random crop keeps, up to 1; 0 uses the
            preset's. Small crops may cut off the object.
        mix: How images of a batch are mixed: `mixup`, `cutmix`, `both` (one at random) or `none`.
        balance: For unbalanced labels: `sample` draws rare ones more often, `weight` gives them
            more weight in the loss.
        mixed_precision: `bf16` computes in bfloat16; `auto` does so on GPUs that support it, and on
            processors with AMX for networks that are faster by it, such as ResNets.
        pretrained: Start from torchvision's ImageNet weights.
        start_from: Another run of the same architecture; training starts from its best weights.
            If the labels differ, the last layer starts fresh.
        teacher: A run with the same labels, of any architecture; the network also learns from its
            outputs for the same augmented images (Hinton et al. 2015, arXiv:1503.02531).
        teacher_weight: Its share of the loss, above 0 up to 1; the labels have the rest.
        teacher_temperature: Divides the logits of both, so that small probabilities count.
        seed: Determines the split, the weights, the order and the augmentation.
        num_workers: Threads that decode images, each image once; 0 uses one for each core.
    """

    task: Task | None = None
    val_from_train: bool = False
    arch: str = "mobilenet_v3_small"
    input_size: tuple[int, int] | None = None
    resize_mode: ResizeMode = ResizeMode.STRETCH
    epochs: int = _OPEN
    batch_size: int = _OPEN
    learning_rate: float = _OPEN
    weight_decay: float = 0.05
    schedule: str = "one-cycle"
    label_smoothing: float = 0.05
    dropout: float = 0.0
    ema_decay: float = 0.99
    patience: int = 0
    augment: str = "standard"
    min_crop: float = 0.0
    mix: str = "none"
    balance: str = "none"
    mixed_precision: str = "auto"
    pretrained: bool = False
    start_from: str | None = None
    teacher: str | None = None
    teacher_weight: float = 0.8
    teacher_temperature: float = 2.0
    alert_labels: tuple[str, ...] = ()
    seed: int = 0
    num_workers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alert_labels", tuple(map(label_name, self.alert_labels)))

        for name, accepted, expected in (
            ("epochs", self.epochs is _OPEN or self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size is _OPEN or self.batch_size >= 2, "at least 2"),
            (
                "learning_rate",
                self.learning_rate is _OPEN or self.learning_rate > 0,
                "more than 0",
            ),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "0 to below 1"),
            ("dropout", 0 <= self.dropout < 1, "0 to below 1"),
            ("ema_decay", 0 <= self.ema_decay < 1, "0 to below 1"),
            ("min_crop", 0 <= self.min_crop <= 1, "0 to 1"),
            ("teacher_weight", 0 < self.teacher_weight <= 1, "more than 0, at most 1"),
            ("teacher_temperature", self.teacher_temperature > 0, "more than 0"),
            ("patience", self.patience >= 0, "0 or more"),
            ("seed", 0 <= self.seed < 2**32, f"0 to {2**32 - 1}"),
            ("num_workers", self.num_workers >= 0, "0 or more"),
            *(
                (name, getattr(self, name) in names, f"one of {', '.join(names)}")
                for name, names in _CHOICES.items()
            ),
        ):
            if not accepted:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")
        if self.input_size is not None and min(self.input_size) < 32:
            raise ConfigError(f"input_size is {self.input_size}; expected at least 32 each")

    @property
    def resize(self) -> ResizeRule:
        """The input's size and how images are fitted to it."""
        # Imported here because settings are checked without torch.
        from limelens.train.architectures import default_input_size

        side = default_input_size(self.arch)
        return ResizeRule(*(self.input_size or (side, side)), self.resize_mode)

    def to_json(self) -> dict[str, Any]:
        """As plain values, including the input size."""
        values = dataclasses.asdict(self)
        values["task"] = None if self.task is None else self.task.value
        values["resize_mode"] = self.resize_mode.value
        values["input_size"] = [self.resize.height, self.resize.width]
        values["alert_labels"] = list(self.alert_labels)
        return values


def as_options(name: str, value: Any) -> str:
    """A setting in the words of the command line, such as `--seed 3` or `no --alert-label`."""
    option = f"--{_OPTIONS.get(name, name).replace('_', '-')}"
    if value is None or value is False or value in ("", [], ()):
        return f"no {option}"
    if value is True:
        return option
    if name == "input_size":
        return f"{option} {value[0]}x{value[1]}"
    if name == "data":
        return f"DATA {value}"
    given = value if isinstance(value, list | tuple) else [value]
    return " ".join(f"{option} {one}" for one in given)


def read_config(path: Path) -> dict[str, Any]:
    """Reads arguments for `TrainConfig` from a TOML file.

    Raises:
        ConfigError: The file cannot be read, a name is not a setting, or a value has the wrong
            type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; expected a TOML file of settings"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    return settings_from(values, str(path))


def settings_from(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Converts plain values from `where` to arguments for `TrainConfig`."""
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise ConfigError(f"{where} sets {name!r}; expected one of {', '.join(fields)}")
        try:
            settings[name] = _READ.get(name, lambda given: given)(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where} sets {name} to {value!r}: {error}") from error
        expected = _OPEN_TYPES.get(name, type(fields[name].default))
        if expected in (int, float, str, bool):
            accepted = (int, float) if expected is float else (expected,)
            if type(settings[name]) not in accepted:
                raise ConfigError(
                    f"{where} sets {name} to {value!r}; expected a {expected.__name__}"
                )
    return settings


def _size(value: Any) -> tuple[int, int]:
    pixels = value if isinstance(value, list) else [value]
    if len(pixels) not in (1, 2) or any(type(side) is not int for side in pixels):
        raise ValueError("expected pixels such as 112 or [96, 128]")
    return pixels[0], pixels[-1]


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("expected the path of a run")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("expected a list of names")
    return tuple(value)


_READ: Final = {
    "task": Task,
    "input_size": _size,
    "resize_mode": ResizeMode,
    "start_from": _path,
    "teacher": _path,
    "alert_labels": _names,
}
