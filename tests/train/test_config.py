from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from limelens.cli.train import training as commands
from limelens.serve.bundle import Task
from limelens.serve.image import ResizeMode
from limelens.train import TrainConfig
from limelens.train.config import ConfigError, read_config, settings_from


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_are_read_from_toml(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '# A comment.\ntask = "multilabel"\ninput_size = [96, 128]\nresize_mode = "pad"\n'
        'learning_rate = 1\nepochs = 7\nalert_labels = ["N/A", "null"]\npretrained = true\n',
    )
    config = TrainConfig(**read_config(path))
    assert config == TrainConfig(
        task=Task.MULTILABEL, input_size=(96, 128), resize_mode=ResizeMode.PAD, learning_rate=1,
        epochs=7, alert_labels=("N/A", "null"), pretrained=True,
    )  # fmt: skip
    assert TrainConfig(**read_config(written(tmp_path, "input_size = 64"))).input_size == (64, 64)


def test_config_json_is_read_back() -> None:
    config = TrainConfig(
        task=Task.MULTICLASS, resize_mode=ResizeMode.CROP, alert_labels=("a",), start_from="x"
    )
    values = {name: value for name, value in config.to_json().items() if value is not None}
    again = TrainConfig(**settings_from(values, "config.json"))
    assert again.to_json() == config.to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"settings\.toml sets 'epoch'; expected one of task, .*epochs"),
        ("data = 'x'", r"sets 'data'"),
        ("epochs = 3.5", r"sets epochs to 3\.5; expected a int"),
        ("epochs = true", r"sets epochs to True; expected a int"),
        ("epochs = '3'", r"sets epochs to '3'"),
        ("learning_rate = '3'", r"sets learning_rate to '3'; expected a float"),
        ("pretrained = 1", r"sets pretrained to 1; expected a bool"),
        ("task = 'many'", r"sets task to 'many'"),
        ("resize_mode = 'bend'", r"sets resize_mode to 'bend'"),
        ("input_size = 96.0", r"sets input_size to 96\.0: expected pixels"),
        ("input_size = [1, 2, 3]", r"sets input_size .* expected pixels"),
        ("input_size = '96x96'", r"sets input_size .* expected pixels"),
        ("alert_labels = 'mask'", r"sets alert_labels to 'mask': expected a list of names"),
        ("alert_labels = [1]", r"expected a list of names"),
        ("start_from = 3", r"sets start_from to 3: expected the path of a run"),
        ("teacher = ''", r"sets teacher to '': expected the path of a run"),
        ("epochs = ", r"settings\.toml cannot be read as TOML"),
        ("[train]\nepochs = 3", r"sets 'train'"),
    ],
)
def test_a_settings_file_that_is_wrong_is_refused_by_name(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(written(tmp_path, text))


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none\.toml cannot be read: No such file or directory; exp"
    ):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed is -1; expected 0 to 4294967295"),
        ({"seed": 2**32}, "seed is"),
        ({"batch_size": 1}, "batch_size is 1; expected at least 2"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; expected more than 0"),
        ({"ema_decay": 1.0}, r"ema_decay is 1\.0"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"patience": -1}, "patience is -1"),
        ({"mix": "mosaic"}, "mix is 'mosaic'; expected one of none, mixup, cutmix, both"),
        ({"balance": "loss"}, "balance is 'loss'; expected one of none, sample, weight"),
        ({"mixed_precision": "fp16"}, "mixed_precision is 'fp16'"),
        ({"num_workers": -1}, "num_workers is -1"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)  # type: ignore[arg-type]


def test_the_command_line_has_every_setting_with_the_same_default() -> None:
    parameters = inspect.signature(commands.train).parameters
    for field in fields(TrainConfig):
        name = {"alert_labels": "alert_label"}.get(field.name, field.name)
        assert name in parameters, name
        default = parameters[name].default
        assert (default or None) == (field.default or None), name
