"""What a model or a server refuses is named like the option that asked for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limelens.cli.options.request_fields import naming_options, option_of
from limelens.serve.errors import InvalidRequestError, LimelensError

Run = Callable[..., Any]


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.fromarray(np.full((16, 16, 3), (200, 0, 0), np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--label", "nope"), "--label: 'nope'; expected one of red, green, blue"),
        (("--contrast", "red,nope"), "--contrast: 'nope'; expected one of red"),
        (("--contrast", "red,red"), "--contrast: 'red' like label; expected another"),
        (("--top-labels", 9), "--top-labels: 9; expected 1 to 3"),
        (("--num-segments", 1), "--num-segments: 1; expected 2 to"),
        (("--num-samples", 3), "--num-samples: 3; expected 10 to"),
        (("--max-samples", 99), "--max-samples: 99 without stability"),
        (
            ("--stability", 0.5, "--max-samples", 99, "--num-samples", 99),
            "--max-samples: given together with --num-samples",
        ),
        (("--num-fills", 999, "--hide", "mean"), "--num-fills: 999; expected 1 to"),
        (("--kernel-width", 0), "--kernel-width: 0; expected over 0"),
        (("--segments-in", "{red}"), "--segments-in: mode RGB; expected a 16-bit"),
        (("--compat", "lime", "--sampling", "paired"), "--sampling: lime draws independent rows"),
    ],
)
def test_what_explain_refuses_names_the_option(
    limelens: Run, asked: tuple[str, str], red: Path, given: tuple[Any, ...], words: str
) -> None:
    filled = [str(word).format(red=red) for word in given]
    result = limelens("explain", red, *asked, *filled)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"limelens: {words}")
    assert result.stdout == ""


def test_what_classify_refuses_is_said_once_and_not_of_each_image(
    limelens: Run, asked: tuple[str, str], red: Path
) -> None:
    result = limelens("classify", red, red, *asked, "--top-k", 9, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == ("limelens: --top-k: 9; expected 1 to 3, the number of labels, or 0\n")


def test_what_bulk_refuses_names_the_option(
    limelens: Run, one_model: Path, red: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    model = one_model / "colours" / "1"
    given = (red.parent, "--out", tmp_path / "out", "--model", model)
    assert "--top-k: 9; expected" in limelens("bulk", "classify", *given, "--top-k", 9).stderr
    result = limelens("bulk", "explain", *given, "--contrast", "red,nope")
    assert "limelens: --contrast: 'nope'; expected" in result.stderr


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("config.smoothing.required", "--required"),
        ("config.explain_on_change.options.hide.color", "--hide"),
        ("explain_on_change.segmentation.num_segments", "--num-segments"),
        ("config.faces.detect_every", "--detect-every"),
        ("images[3].region_of_interest", "--region"),
        ("images[3].encoded", None),
        ("message", None),
    ],
)
def test_the_fields_of_streams_and_images_have_options(field: str, option: str | None) -> None:
    options = {"--required", "--hide", "--num-segments", "--faces", "--detect-every", "--region"}
    assert option_of(field, options) == option


def test_python_s_words_are_replaced_by_options() -> None:
    with (
        pytest.raises(LimelensError, match=r"^token: in plaintext; expected --tls or --ca, or --i"),
        naming_options({"--insecure-token"}),
    ):
        raise InvalidRequestError(
            "token", "in plaintext; expected tls=Tls(…), or insecure_token=True"
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--learning-rate", 0), "--learning-rate is 0.0; expected more than 0"),
        (("--input-size", 3), "--input-size is (3, 3); expected at least 32 each"),
        (("--config", "own.toml"), "learning_rate is -1.0; expected more than 0"),
        (("--config", "own.toml", "--learning-rate", 0), "--learning-rate is 0.0; expected"),
    ],
)
def test_what_train_refuses_names_the_option_or_the_setting(
    limelens: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[Any, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text("learning_rate = -1.0\n")
    result = limelens("train", "data", *given)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"limelens: {words}")
