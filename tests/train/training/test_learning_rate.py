from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from limelens.train import TrainConfig, train
from limelens.train.training.learning_rate import find_learning_rate

TINY = TrainConfig(arch="cnn3", input_size=(32, 32), epochs=2, batch_size=8, augment="none")


@pytest.mark.ci
@pytest.mark.parametrize("data", ["divided", "tagged"])
def test_a_learning_rate_is_found_that_trains(
    data: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(data)
    found = find_learning_rate(folder, TINY, tmp_path / "rates.png")
    assert 1e-5 < found < 0.3
    with Image.open(tmp_path / "rates.png") as image:
        assert min(image.size) > 200
    if data == "divided":
        assert find_learning_rate(folder, TINY, tmp_path / "again.png") == found
        report = train(folder, tmp_path / "run", replace(TINY, learning_rate=found))
        assert report["val"]["accuracy"] >= 0.75
