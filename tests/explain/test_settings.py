"""Options and warnings as values."""

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.explain import (
    ExplainOptions,
    Explanation,
    ExplanationWarning,
    InvalidArgumentError,
    Settings,
    WarningKind,
    explain,
)


def brightness(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The second label is the brightness of the top left corner."""
    seen = images[:, :9, :9].astype(np.float32).mean(axis=(1, 2, 3)) / 255
    return np.stack([1 - seen, seen], axis=1)


def numbers(found: Explanation) -> list[Any]:
    return [(one.label, one.weights, one.stability) for one in found.explanations]


def test_settings_and_single_options_give_the_same_explanation(photo: NDArray[np.uint8]) -> None:
    options: ExplainOptions = {"num_samples": 120, "hide": [0, 0, 0], "labels": [1], "seed": 3}
    settings = Settings(**options)
    found = explain(photo, brightness, settings)
    assert numbers(found) == numbers(explain(photo, brightness, **options))
    assert numbers(found) == numbers(explain(photo, brightness, settings, seed=3))
    assert numbers(found) != numbers(explain(photo, brightness, settings, seed=4))


def test_settings_are_frozen_and_normalised() -> None:
    settings = Settings(hide=[1, 2, 3], labels=[2, 0, 2])
    assert (settings.hide, settings.labels) == ((1, 2, 3), (2, 0))
    with pytest.raises(FrozenInstanceError):
        settings.seed = 1  # type: ignore[misc]


def test_a_replaced_option_is_checked_again() -> None:
    settings = Settings(top_labels=2)
    with pytest.raises(InvalidArgumentError, match="give one of them") as caught:
        replace(settings, labels=[1])
    assert caught.value.argument == "labels"
    assert replace(settings, labels=[1], top_labels=None).labels == (1,)


def test_keyword_arguments_are_the_fields_of_settings() -> None:
    assert {field.name for field in fields(Settings)} == set(ExplainOptions.__annotations__)


def test_the_deadline_counts_from_the_start_that_is_given(photo: NDArray[np.uint8]) -> None:
    found = explain(
        photo, brightness, num_samples=500, deadline_ms=5000, started_at=-1e6, batch_size=10
    )
    assert found.num_samples == 10
    assert found.max_samples == 500
    assert found.is_final
    (late,) = [one for one in found.warnings if one.kind is WarningKind.DEADLINE]
    assert str(late) == "The deadline of 5000 ms passed after 10 of 500 samples."


def test_warnings_are_values_that_take_the_names_of_labels() -> None:
    image = np.full((50, 50), 77, dtype=np.uint8)
    found = explain(image, brightness, seed=0, labels=[1])
    (constant,) = [one for one in found.warnings if one.kind is WarningKind.CONSTANT]
    assert constant.label == 1
    assert constant.numbers["probability"] == pytest.approx(77 / 255)
    assert str(constant).startswith("Label 1: its probability is 0.302 whatever is hidden")
    assert constant.sentence(["dark", "bright"]).startswith("Label 'bright': its probability")


@pytest.mark.parametrize("kind", WarningKind)
def test_every_kind_of_warning_has_a_sentence(kind: WarningKind) -> None:
    anything = {
        "height": 3, "width": 4, "segmentation": "slic", "num_segments": 2, "num_samples": 30,
        "enough": 40, "effective": 1.5, "kernel_width": 0.25, "distance": "l2", "probability": 0.5,
        "score": 0.1, "stability": 0.5, "target": 0.9, "ties": "1, 2", "top_k": 5,
        "deadline_ms": 300, "max_samples": 100, "baseline": 0.49, "weight": 0.01,
        "std_error": 0.002, "other": "blur",
    }  # fmt: skip
    sentence = ExplanationWarning(kind, numbers=anything).sentence()
    assert sentence.endswith(".")
    assert "{" not in sentence
