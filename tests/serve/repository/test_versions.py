"""Which versions of a model are loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.conftest import BundleMaker

from limelens.serve.errors import InvalidRequestError
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.version_policy import VersionPolicy, parse_versions


def fill(folder: Path, bundles: BundleMaker, *versions: int) -> Path:
    for version in versions:
        bundles.save(folder, bundles.metadata(), version)
    return folder


def numbers(repository: Repository) -> list[int]:
    return [one.version for one in repository.served]


@pytest.mark.parametrize(
    ("words", "served"),
    [
        ([], [1, 2, 3, 4]),
        (["all"], [1, 2, 3, 4]),
        (["latest"], [4]),
        (["2"], [3, 4]),
        (["9"], [1, 2, 3, 4]),
        (["colours=2"], [2]),
        (["latest", "colours=1,3"], [1, 3]),
        (["other=7", "latest"], [4]),
    ],
)
def test_wanted_versions_are_loaded(
    tmp_path: Path, bundles: BundleMaker, words: list[str], served: list[int]
) -> None:
    fill(tmp_path, bundles, 1, 2, 3, 4)
    repository = Repository(tmp_path, "cpu", versions=parse_versions(words))
    assert numbers(repository) == served
    assert repository.get("colours").version == served[-1]
    assert not repository.refresh()


@pytest.mark.parametrize(
    "words",
    [["none"], ["0"], ["-1"], [""], ["a="], ["=1"], ["a=0"], ["a=1,"], ["a=1", "a=2"], ["1", "2"]],
)
def test_malformed_rules_are_refused(words: list[str]) -> None:
    with pytest.raises(InvalidRequestError, match=r"^versions: "):
        parse_versions(words)


def test_a_name_may_hold_an_equals_sign() -> None:
    assert parse_versions(["a=b=2,1"]) == VersionPolicy(None, {"a=b": (1, 2)})


def test_where_the_newest_is_refused_the_next_is_loaded(
    tmp_path: Path, bundles: BundleMaker
) -> None:
    fill(tmp_path, bundles, 1, 2, 3)
    newest = tmp_path / "colours" / "3" / "model.onnx"
    whole = newest.read_bytes()
    newest.write_bytes(b"no model")
    repository = Repository(tmp_path, "cpu", versions=parse_versions(["latest"]))
    assert numbers(repository) == [2]
    newest.write_bytes(whole)
    assert repository.refresh()
    assert numbers(repository) == [3]
    shutil.rmtree(newest.parent)
    assert repository.refresh()
    assert numbers(repository) == [2]


def test_a_pinned_version_that_is_missing_is_rejected(tmp_path: Path, bundles: BundleMaker) -> None:
    fill(tmp_path, bundles, 1, 2)
    repository = Repository(tmp_path, "cpu", versions=parse_versions(["colours=1,3"]))
    assert numbers(repository) == [1]
    assert [one.version for one in repository.rejected] == [3]
    assert "No such file" in repository.rejected[0].reason
    fill(tmp_path, bundles, 3, 4)
    assert repository.refresh()
    assert numbers(repository) == [1, 3]
    assert not repository.rejected
