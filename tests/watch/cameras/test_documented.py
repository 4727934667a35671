"""docs/watching.md against the settings."""

from __future__ import annotations

import re
from pathlib import Path

from limelens.serve.decisions.camera_state import CameraState, EventType, UnknownReason
from limelens.watch.cameras.config import read_config
from limelens.watch.cameras.settings import CameraSettings

PAGE = (Path(__file__).parents[3] / "docs" / "watching.md").read_text()


def test_the_example_is_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "door.toml").write_text(example)
    config = read_config(tmp_path / "door.toml")
    assert [camera.id for camera in config.camera] == ["entrance", "loading-dock", "workshop"]


def test_every_key_state_reason_and_type_is_named() -> None:
    for name in (*CameraSettings.model_fields, *CameraState, *UnknownReason, *EventType):
        assert re.search(rf"`{name}[`, =]|, {name}`", PAGE), name
