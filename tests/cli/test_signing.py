"""The errors of `limelens sign` and `serve` for wrong arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import BundleMaker


def test_the_command_names_what_it_cannot_sign(
    tmp_path: Path, bundles: BundleMaker, limelens: Callable[..., Any]
) -> None:
    result = limelens("sign", tmp_path, "--key", tmp_path / "key.pem")
    assert result.exit_code == 1
    assert "no bundle; expected model.onnx" in result.stderr
    result = limelens("sign", bundles.save(tmp_path, bundles.metadata()), "--key", "no.pem")
    assert result.exit_code == 1
    assert "no.pem: no private key that can be used (No such file" in result.stderr


def test_wrong_versions_are_wrong_usage(one_model: Path, limelens: Callable[..., Any]) -> None:
    result = limelens("serve", "--models", one_model, "--versions", "newest")
    assert result.exit_code == 2
    assert "expected all, latest, a number" in result.said
