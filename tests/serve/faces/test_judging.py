"""Decisions about images by their faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.conftest import BundleMaker

from limelens.serve.bundle import Task
from limelens.serve.decisions.decision import decide
from limelens.serve.faces.judging import of_faces


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.MULTILABEL])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.4])
def test_without_a_face_the_threshold_is_that_of_a_decision(
    bundles: BundleMaker, task: Task, threshold: float | None
) -> None:
    metadata = replace(bundles.metadata("x", task), threshold=0.3)
    decided = decide(np.full(3, 0.5, np.float32), metadata, threshold=threshold)
    assert of_faces([], metadata, threshold).threshold == decided.threshold
