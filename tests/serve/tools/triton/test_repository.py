"""Folders of Triton: what gets in, what stays as it is, what is refused."""

from __future__ import annotations

import filecmp
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limelens.serve.bundle.folder import look_into
from limelens.serve.errors import BundleError
from limelens.serve.tools.triton.config import from_text
from limelens.serve.tools.triton.repository import find_bundles, write_models


@pytest.fixture
def source(tmp_path: Path, bundles: Any) -> Path:
    """A model repository with `colours` 1."""
    bundles.save(tmp_path / "models", bundles.metadata())
    return tmp_path / "models"


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "place", ["", "colours", "colours/1", "colours/1/model.onnx"], ids=lambda one: one or "all"
)
def test_bundles_are_found_in_every_folder_above_them(source: Path, place: str) -> None:
    found = find_bundles(source / place)
    assert [*found] == ["colours"]
    assert [*found["colours"]] == [1]
    assert found["colours"][1].samefile(source / "colours" / "1" / "model.onnx")


def test_there_are_no_bundles_in_a_run_or_nowhere(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "plots").mkdir(parents=True)
    (run / "best.pt").touch()
    assert find_bundles(run) == find_bundles(run / "best.pt") == find_bundles(tmp_path / "x") == {}
    with pytest.raises(BundleError, match="no bundle in it; expected a bundle, or the folder"):
        write_models(run, tmp_path / "triton")
    assert not (tmp_path / "triton").exists()


def test_a_file_of_its_own_is_version_1_of_the_model_that_it_names(
    source: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.onnx"
    shutil.copy(source / "colours" / "1" / "model.onnx", alone)
    (written,) = write_models(alone, tmp_path / "triton")
    assert (written.name, written.added) == ("colours", (1,))
    assert filecmp.cmp(tmp_path / "triton" / "colours" / "1" / "model.onnx", alone, shallow=False)


def test_files_and_their_signatures_stay_as_they_are(source: Path, tmp_path: Path) -> None:
    own = source / "colours" / "1"
    (own / "model.sig").write_text("a signature")
    write_models(source, tmp_path / "triton")
    folder = tmp_path / "triton" / "colours"
    assert content(folder / "1") == content(own)
    config = from_text((folder / "config.pbtxt").read_text())
    about = json.loads(config.parameters["limelens.version.1"].string_value)
    digest = hashlib.sha256((own / "model.onnx").read_bytes()).hexdigest()
    assert about["sha256"] == digest


def test_a_new_version_is_added_and_what_people_changed_is_kept(
    source: Path, tmp_path: Path, bundles: Any
) -> None:
    folder = tmp_path / "triton"
    write_models(source, folder)
    path = folder / "colours" / "config.pbtxt"
    changed = path.read_text().replace("microseconds: 500", "microseconds: 0 # ours")
    path.write_text(f"{changed}response_cache {{ enable: true }}\n")
    before = content(folder)
    bundles.save(source, replace(bundles.metadata(), threshold=0.9), version=2)
    (written,) = write_models(source / "colours", folder)
    assert (written.added, written.present) == ((2,), (1,))
    after = content(folder)
    text = after.pop("colours/config.pbtxt").decode()
    assert text.startswith(before.pop("colours/config.pbtxt").decode())
    added = (source / "colours" / "2" / "model.onnx").read_bytes()
    assert after == {**before, "colours/2/model.onnx": added}
    config = from_text(text)
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    thresholds = [
        json.loads(config.parameters[f"limelens.version.{version}"].string_value)["threshold"]
        for version in (1, 2)
    ]
    assert thresholds == [0.5, 0.9]
    before = content(folder)
    (again,) = write_models(source, folder)
    assert (again.added, again.present) == ((), (1, 2))
    assert content(folder) == before


def test_both_servers_can_read_the_same_folder(source: Path, tmp_path: Path) -> None:
    write_models(source, tmp_path / "triton")
    (entry,) = look_into(tmp_path / "triton").values()
    assert [*entry.versions] == [1]
    assert entry.problem == ""


def refused(source: Path, folder: Path, words: str, **given: Any) -> None:
    before = content(folder)
    with pytest.raises(BundleError, match=words):
        write_models(source, folder, **given)
    assert content(folder) == before
    assert not [*folder.glob(".*")]


def test_versions_that_do_not_fit_each_other_are_refused(
    source: Path, tmp_path: Path, bundles: Any
) -> None:
    other = replace(bundles.metadata(), labels=("blue", "green", "red"))
    bundles.save(source, other, version=2)
    refused(source, tmp_path / "triton", "it differs in labels from version 1")
    write_models(source / "colours" / "1", tmp_path / "triton")
    refused(source / "colours" / "2", tmp_path / "triton", "differs in labels from what is")
    write_models(source / "colours" / "2", tmp_path / "triton", name="other")


def test_another_file_of_the_same_version_is_refused(
    source: Path, tmp_path: Path, bundles: Any
) -> None:
    write_models(source, tmp_path / "triton")
    bundles.save(tmp_path / "others", replace(bundles.metadata(), threshold=0.9))
    refused(tmp_path / "others", tmp_path / "triton", "another file is there")


@pytest.mark.parametrize("text", [None, "name: 1 2", "name: \xff"])
def test_a_folder_whose_configuration_cannot_be_read_is_left_alone(
    source: Path, tmp_path: Path, text: str | None
) -> None:
    folder = tmp_path / "triton"
    (folder / "colours").mkdir(parents=True)
    if text is not None:
        (folder / "colours" / "config.pbtxt").write_bytes(text.encode("latin-1"))
    refused(source, folder, "config.pbtxt cannot be read")


def test_a_bundle_that_misses_its_golden_vector_is_refused(
    source: Path, tmp_path: Path, bundles: Any
) -> None:
    metadata = bundles.metadata()
    golden = replace(metadata.golden, probabilities=metadata.golden.probabilities[::-1])
    bundles.save(source, replace(metadata, golden=golden), version=2)
    refused(source, tmp_path / "triton", "golden vector is missed")


def test_labels_of_two_lines_are_refused(tmp_path: Path, bundles: Any) -> None:
    labels = ("a\nb", "green", "blue")
    bundles.save(
        tmp_path, replace(bundles.metadata(), labels=labels, alert_labels=(), macro_labels={})
    )
    refused(tmp_path / "colours", tmp_path / "triton", "one line for each")


def test_one_name_is_not_given_to_several_models(
    source: Path, tmp_path: Path, bundles: Any
) -> None:
    bundles.save(source, bundles.metadata("other"))
    refused(source, tmp_path / "triton", "a name is for one", name="new")


@pytest.mark.parametrize("name", ["", ".", "../a", "a/b", "/a", "a\\b", ".a", "a\nb", "\udcff"])
def test_a_name_that_is_no_folders_is_refused(source: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="expected that of a folder"):
        write_models(source, tmp_path / "triton", name=name)
    assert not (tmp_path / "triton").exists()


def test_a_bundle_cannot_name_itself_out_of_the_folder(tmp_path: Path, bundles: Any) -> None:
    saved = bundles.save(tmp_path / "models", replace(bundles.metadata(), name="../../out"))
    shutil.copy(saved, tmp_path / "alone.onnx")
    with pytest.raises(BundleError, match="expected that of a folder"):
        write_models(tmp_path / "alone.onnx", tmp_path / "x" / "triton")
    assert [*(tmp_path / "x" / "triton").iterdir()] == []
    assert not (tmp_path / "out").exists()
