"""Which models a folder holds, and which of them are served."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto

from limelens.serve import load_bundle
from limelens.serve.errors import BundleError, InvalidRequestError, NotFoundError, ProviderError
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.model_version import WHOLE


def test_the_newest_version_is_the_default(models: Path) -> None:
    repository = Repository(models, "cpu")
    assert [(one.name, one.version) for one in repository.served] == [
        ("colours", 1),
        ("colours", 2),
        ("tags", 1),
    ]
    assert repository.get("colours").version == 2
    assert repository.get("colours", 1).bundle.metadata.threshold == 0.5


def test_versions_are_numbers_not_words(tmp_path: Path, bundles: Any) -> None:
    for version in (9, 10):
        bundles.save(tmp_path, bundles.metadata(), version)
    (tmp_path / "colours" / "latest").mkdir()
    (tmp_path / "colours" / "011").mkdir()
    (tmp_path / ".git" / "1").mkdir(parents=True)
    (tmp_path / "README.md").write_text("words")
    repository = Repository(tmp_path, "cpu")
    assert [one.version for one in repository.served] == [9, 10]
    assert repository.get().version == 10
    [ignored] = repository.rejected
    assert (ignored.name, ignored.version) == ("colours", WHOLE)
    assert "colours: ignored: 011, latest; a version is a folder whose name is" in ignored.reason


def test_the_only_model_need_not_be_named(one_model: Path, models: Path) -> None:
    assert Repository(one_model, "cpu").get().name == "colours"
    with pytest.raises(
        InvalidRequestError, match="model: not given; expected one of colours, tags"
    ):
        Repository(models, "cpu").get()


def test_an_unknown_model_or_version_is_refused_with_the_known_ones(models: Path) -> None:
    repository = Repository(models, "cpu")
    with pytest.raises(NotFoundError, match=r"'cats' is served; there are colours, tags") as caught:
        repository.get("cats")
    assert (caught.value.kind, caught.value.name) == ("model", "cats")
    with pytest.raises(NotFoundError, match=r"no version 3 of 'colours' is served; there are 1, 2"):
        repository.get("colours", 3)
    with pytest.raises(InvalidRequestError, match="version: -1"):
        repository.get("colours", -1)


def test_a_missing_or_empty_folder_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no such folder; expected models as <name>/<version>"):
        Repository(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"no models in it; expected .*limelens export"):
        Repository(tmp_path)
    (tmp_path / "a file").write_text("x")
    with pytest.raises(BundleError, match="no such folder"):
        Repository(tmp_path / "a file")


def test_a_bad_version_is_refused_and_the_others_serve(tmp_path: Path, bundles: Any) -> None:
    bundles.save(tmp_path, bundles.metadata(), 1)
    bad = bundles.save(tmp_path, bundles.metadata(), 2)
    bad.write_bytes(bad.read_bytes()[:500])
    (tmp_path / "colours" / "3").mkdir()
    repository = Repository(tmp_path, "cpu")
    assert repository.get("colours").version == 1
    assert [(one.version, str(bad) in one.reason) for one in repository.rejected] == [
        (2, True),
        (3, False),
    ]
    with pytest.raises(NotFoundError, match=r"no version 2 .*it was refused: .*; there is 1"):
        repository.get("colours", 2)


def test_a_folder_of_bad_models_alone_is_an_error_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / "a" / "1" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(BundleError, match=r"every model in it was refused: .*a/1/model.onnx"):
        Repository(tmp_path, "cpu")


def test_of_many_refused_models_ten_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"odd{number:03}" / "latest").mkdir(parents=True)
    with pytest.raises(BundleError) as error:
        Repository(tmp_path, "cpu")
    assert str(error.value).count("ignored: latest") == 10
    assert str(error.value).endswith("; and 290 more")


def test_a_new_version_takes_over_and_a_bad_one_does_not(tmp_path: Path, bundles: Any) -> None:
    first = bundles.save(tmp_path, bundles.metadata(), 1)
    repository = Repository(tmp_path, "cpu")
    assert not repository.refresh()

    half = tmp_path / "colours" / "2" / "model.onnx"
    half.parent.mkdir()
    half.write_bytes(first.read_bytes()[:700])
    assert repository.refresh()
    assert repository.get().version == 1
    assert repository.rejected[0].version == 2

    half.write_bytes(first.read_bytes())
    assert repository.refresh()
    assert repository.get().version == 2
    assert not repository.rejected

    half.write_bytes(b"spoilt")
    assert repository.refresh()
    assert repository.get().version == 2  # what was loaded serves on
    assert "not an ONNX file" in repository.rejected[0].reason

    shutil.rmtree(half.parent)
    assert repository.refresh()
    assert repository.get().version == 1
    assert not repository.refresh()


def test_a_changed_file_is_loaded_again(tmp_path: Path, bundles: Any) -> None:
    path = bundles.save(tmp_path, bundles.metadata(), 1)
    repository = Repository(tmp_path, "cpu")
    before = repository.get().bundle
    os.utime(path, ns=(1, 1))
    assert repository.refresh()
    assert repository.get().bundle is not before


def test_one_corrupt_file_neither_stops_the_server_nor_freezes_it(
    tmp_path: Path, bundles: Any
) -> None:
    def corrupt(name: str) -> Path:
        model = bundles.model(bundles.metadata(name))
        model.graph.initializer.append(
            TensorProto(name="short", data_type=TensorProto.FLOAT, dims=[10], raw_data=bytes(12))
        )
        path = tmp_path / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(model.SerializeToString())
        return path

    corrupt("first")
    bundles.save(tmp_path, bundles.metadata(), 1)
    repository = Repository(tmp_path, "cpu")
    assert [one.name for one in repository.served] == ["colours"]
    corrupt("another")
    bundles.save(tmp_path, bundles.metadata(), 2)
    assert repository.refresh()
    assert repository.get().version == 2
    assert [one.name for one in repository.rejected] == ["another", "first"]
    assert not repository.refresh()


def test_a_load_that_failed_but_not_for_the_file_is_tried_again(
    tmp_path: Path, bundles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.save(tmp_path, bundles.metadata(), 1)
    tired = [True, True]

    def load(path: Path, *args: Any, **settings: Any) -> Any:
        if path.parent.name == "2" and tired:
            tired.pop()
            raise ProviderError("the device is busy")
        return load_bundle(path, *args, **settings)

    monkeypatch.setattr("limelens.serve.bundle.loading.load_bundle", load)
    repository = Repository(tmp_path, "cpu")
    bundles.save(tmp_path, bundles.metadata(), 2)
    bundles.save(tmp_path, bundles.metadata("other"), 1)
    assert repository.refresh()
    assert [one.reason for one in repository.rejected] == ["the device is busy"]
    assert repository.get("other").version == 1
    assert not repository.refresh()
    assert repository.refresh()
    assert repository.get("colours").version == 2
    assert not repository.rejected
    tired.append(True)
    shutil.rmtree(tmp_path / "colours" / "1")
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(ProviderError, match="busy"):  # nothing is left to serve
        Repository(tmp_path, "cuda")


def odd_entries(models: Path) -> dict[str, str]:
    """Adds entries that cannot be served; returns, by name, the expected reasons."""
    (models / "loop").symlink_to(models / "loop")
    (models / "dangling").symlink_to(models / "nowhere")
    (models / "flat").mkdir()
    (models / "flat" / "model.onnx").write_bytes(b"")
    (models / "loose.onnx").write_bytes(b"")
    os.mkdir(os.fsencode(models) + b"/caf\xe9")  # noqa: PTH102
    (models / "words" / "v2").mkdir(parents=True)
    (models / "words" / "02").mkdir()
    (models / "file" / "a.txt").parent.mkdir()
    (models / "file" / "1").write_bytes(b"")
    (models / "linked").mkdir()
    (models / "linked" / "7").symlink_to(models / "nowhere")
    # Nobody meant these.
    (models / "lost+found").mkdir()
    (models / ".snapshot" / "1").mkdir(parents=True)
    (models / "notes.txt").write_text("words")
    (models / "in the making").mkdir()
    return {
        "loop": "loop: cannot be read: Too many levels of symbolic links",
        "dangling": "dangling: cannot be read: No such file or directory",
        "flat": "flat: no version in it; expected such as",
        "loose.onnx": "loose.onnx: a file among the models; expected",
        "caf\\xe9": "caf\\xe9: the name is no UTF-8; rename it",
        "words": "words: ignored: 02, v2; a version is a folder whose name is a number",
        "file": "file: ignored: 1; a version is a folder",
        "linked": "linked/7/model.onnx: No such file or directory",
    }


def test_odd_entries_are_named_once_and_stop_nothing(
    tmp_path: Path, bundles: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bundles.save(tmp_path, bundles.metadata(), 1)
    expected = odd_entries(tmp_path)
    repository = Repository(tmp_path, "cpu")
    for _ in range(2):
        assert [(one.name, one.version) for one in repository.served] == [("colours", 1)]
        found = {one.name: one.reason for one in repository.rejected}
        assert found.keys() == expected.keys()
        assert all(expected[name] in reason for name, reason in found.items())
        assert not repository.refresh()
    assert all(caplog.text.count(reason) == 1 for reason in expected.values())

    bundles.save(tmp_path, bundles.metadata(), 2)
    bundles.save(tmp_path, bundles.metadata("other"), 1)
    assert repository.refresh()
    assert repository.get("colours").version == 2
    assert repository.get("other").version == 1


def test_a_solved_problem_is_no_longer_reported(tmp_path: Path, bundles: Any) -> None:
    bundles.save(tmp_path, bundles.metadata(), 1)
    wrong = tmp_path / "colours" / "v2"
    wrong.mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    repository = Repository(tmp_path, "cpu")
    assert len(repository.rejected) == 2
    wrong.rmdir()
    (tmp_path / "loop").unlink()
    assert repository.refresh()
    assert not repository.rejected


def test_a_model_whose_folder_becomes_unreadable_stays_in_use(tmp_path: Path, bundles: Any) -> None:
    bundles.save(tmp_path, bundles.metadata(), 1)
    bundles.save(tmp_path, bundles.metadata("other"), 1)
    repository = Repository(tmp_path, "cpu")
    before = repository.get("other").bundle
    (tmp_path / "other").rename(tmp_path / ".other")
    (tmp_path / "other").symlink_to(tmp_path / "other")
    bundles.save(tmp_path, bundles.metadata(), 2)
    assert repository.refresh()
    assert repository.get("colours").version == 2
    assert repository.get("other").bundle is before
    assert [(one.name, one.version) for one in repository.rejected] == [("other", WHOLE)]

    (tmp_path / "other").unlink()
    (tmp_path / ".other").rename(tmp_path / "other")
    assert repository.refresh()
    assert repository.get("other").bundle is before
    assert not repository.rejected


def test_a_folder_that_is_being_written_is_not_rejected(tmp_path: Path, bundles: Any) -> None:
    bundles.save(tmp_path, bundles.metadata(), 1)
    repository = Repository(tmp_path, "cpu")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "card.json").write_text("{}")
    assert not repository.refresh(is_quiet=lambda _path, _stamp: False)
    assert not repository.rejected
    assert repository.refresh()
    assert "no version in it" in repository.rejected[0].reason
