"""Which versions take over from which, if those that are clearly worse are held back."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from tests.golden_images import golden_images, put_bundle, write_folder

from limelens.serve.errors import NotFoundError
from limelens.serve.repository.judging import Rival
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.validation import ValidationResult, Validator, validate
from limelens.serve.repository.version_policy import parse_versions

IMAGES = golden_images()


class Here(Validator):
    """Validates in this process, which takes less time."""

    def __call__(
        self, path: Path, rival: Rival | None = None, images: Path | None = None
    ) -> ValidationResult:
        return validate(path, rival=rival, images=images)


def opened(folder: Path, versions: str = "all", **given: Any) -> Repository:
    """A repository that holds back."""
    policy = parse_versions([versions])
    return Repository(folder, "cpu", hold_back=True, versions=policy, validator=Here(), **given)


def served(repository: Repository) -> list[int]:
    return [one.version for one in repository.served]


def test_a_version_at_chance_is_held_back_and_a_like_one_takes_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_bundle(tmp_path, 1, images=IMAGES)
    repository = opened(tmp_path)
    put_bundle(tmp_path, 2, gain=0.0)
    assert repository.refresh()
    assert served(repository) == [1]
    (held,) = repository.rejected
    assert held.reason == "held back: right on 8 of 24 golden images, version 1 on 24 (p = 1.5e-05)"
    assert (held.version, held.held_back_by) == (2, 1)
    assert (repository.load_counts.held_back, repository.load_counts.rejected) == (1, 0)
    with pytest.raises(NotFoundError, match=r"no version 2 .*\(it was held back: right on 8 of"):
        repository.get("colours", 2)
    assert not repository.refresh()  # logged and counted once
    lines = [one.message for one in caplog.records if one.levelno >= logging.WARNING]
    assert lines == [f"colours version 2 is {held.reason}"]

    put_bundle(tmp_path, 3, gain=5.0, images=golden_images(seed=1))
    repository.refresh()
    assert served(repository) == [1, 3]
    assert repository.get().version == 3


def test_a_start_comes_to_the_same_result(tmp_path: Path) -> None:
    put_bundle(tmp_path, 1, images=IMAGES)
    put_bundle(tmp_path, 2, gain=0.0)
    put_bundle(tmp_path, 3, gain=0.0)  # no worse than 2, which is not what it would replace
    latest = Repository(tmp_path, "cpu", hold_back=True, versions=parse_versions(["latest"]))
    assert served(latest) == [1]
    assert [one.held_back_by for one in latest.rejected] == [1, 1]
    # An explicit choice wins.
    assert served(opened(tmp_path, "colours=2")) == [2]
    assert served(Repository(tmp_path, "cpu")) == [1, 2, 3]


def test_a_version_is_judged_again_when_it_or_its_rival_changes(tmp_path: Path) -> None:
    first = put_bundle(tmp_path, 1, images=IMAGES)
    put_bundle(tmp_path, 2, gain=0.0)
    repository = opened(tmp_path)
    assert served(repository) == [1]
    # The file of a version that is served is judged against what is served.
    put_bundle(tmp_path, 1, gain=0.0)
    repository.refresh()
    assert served(repository) == [1]
    changed, _ = repository.rejected
    assert (changed.version, changed.held_back_by) == (1, 1)
    assert "8 of 24 golden images, the file before it on 24" in changed.reason
    put_bundle(tmp_path, 1, images=IMAGES)
    put_bundle(tmp_path, 2, images=IMAGES)
    repository.refresh()
    assert served(repository) == [1, 2]
    assert repository.rejected == ()
    put_bundle(tmp_path, 3, gain=0.0)
    repository.refresh()
    assert served(repository) == [1, 2]
    # Nothing is left that it could be worse than.
    for path in (first, tmp_path / "colours" / "2" / "model.onnx"):
        path.unlink()
        path.parent.rmdir()
    repository.refresh()
    assert served(repository) == [3]


def test_without_images_a_version_takes_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_bundle(tmp_path, 1)
    put_bundle(tmp_path, 2, gain=0.0)
    repository = opened(tmp_path)
    assert served(repository) == [1, 2]
    assert [one.message for one in caplog.records] == [
        "colours version 2 takes over without being judged: "
        "there are too few golden images in it and in version 1"
    ]


def test_a_folder_of_images_judges_instead(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    (folder / "red" / "broken.jpg").write_bytes(b"no image")
    models = tmp_path / "models"
    put_bundle(models, 1)
    repository = opened(models, hold_back_images=folder)
    put_bundle(models, 2, gain=0.0)
    put_bundle(models, 3, labels=("red", "green", "violet"))
    put_bundle(models, 4, gain=5.0)
    repository.refresh()
    assert served(repository) == [1, 4]
    worse, renamed = (one.reason for one in repository.rejected)
    assert worse.startswith("held back: right on 8 of 24 given images, version 1 on 24")
    assert renamed.endswith("; it lacks the label blue")


def test_a_version_whose_golden_images_are_broken_is_refused(tmp_path: Path) -> None:
    put_bundle(tmp_path, 1, images=IMAGES)
    repository = opened(tmp_path)
    (image, *others) = IMAGES
    cut = type(image)(image.labels, image.encoded[:-100])
    put_bundle(tmp_path, 2, images=(cut, *others))
    repository.refresh()
    assert served(repository) == [1]
    (refused,) = repository.rejected
    assert "a golden image cannot be read: damaged" in refused.reason
    assert not refused.held_back_by


def test_a_file_that_changes_while_it_is_judged_waits(tmp_path: Path) -> None:
    put_bundle(tmp_path, 1, images=IMAGES)
    repository = opened(tmp_path)
    second = put_bundle(tmp_path, 2)

    class Slow(Here):
        def __call__(
            self, path: Path, rival: Rival | None = None, images: Path | None = None
        ) -> ValidationResult:
            result = super().__call__(path, rival, images)
            os.utime(second, ns=(0, 1))
            return result

    repository.refresh(validator=Slow())
    assert served(repository) == [1]
    repository.refresh()
    assert served(repository) == [1, 2]
