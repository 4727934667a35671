from __future__ import annotations

import os
from pathlib import Path

import pytest

from limelens.serve.folders import (
    find_images,
    label_name,
    look_alikes,
    split_name,
    subfolders,
    walk,
)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in walk(folder).files]


def test_hidden_files_and_those_of_operating_systems_are_skipped(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "in/Desktop.ini",
        ".ipynb_checkpoints/a.jpg", "__MACOSX/a.jpg", "in/@eaDir/a.jpg", "in/b.jpg",
    )  # fmt: skip
    assert names(tmp_path) == ["a.jpg", "in/b.jpg"]


def test_a_folder_whose_own_name_is_hidden_is_walked(tmp_path: Path) -> None:
    touch(tmp_path / ".cache", "a.jpg")
    assert names(tmp_path / ".cache") == ["a.jpg"]


def test_a_link_to_a_folder_is_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "store", "x.jpg", "deep/y.jpg")
    touch(tmp_path / "data", "a.jpg")
    (tmp_path / "data" / "one").symlink_to(tmp_path / "store")
    (tmp_path / "data" / "two").symlink_to(tmp_path / "store")
    found = walk(tmp_path / "data")
    assert names(tmp_path / "data") == ["a.jpg", "one/deep/y.jpg", "one/x.jpg"]
    assert [(one.path.name, "read already" in one.reason) for one in found.not_followed] == [
        ("two", True)
    ]


def test_a_folder_takes_precedence_over_a_link_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "z/a.jpg")
    (tmp_path / "link").symlink_to("z")
    assert names(tmp_path) == ["z/a.jpg"]


@pytest.mark.parametrize("target", [".", "..", "a", "../.."])
def test_a_loop_of_links_ends(tmp_path: Path, target: str) -> None:
    touch(tmp_path / "top", "data/a/b.jpg", "beside/c.jpg")
    (tmp_path / "top" / "data" / "loop").symlink_to(target)
    assert names(tmp_path / "top" / "data") == ["a/b.jpg"]
    assert [one.path.name for one in walk(tmp_path / "top" / "data").not_followed] == ["loop"]


def test_a_linked_folder_may_hold_a_link_to_what_holds_it(tmp_path: Path) -> None:
    touch(tmp_path, "store/in/a.jpg", "store/b.jpg", "data/c.jpg")
    (tmp_path / "store" / "in" / "up").symlink_to("..")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "store" / "in")
    assert names(tmp_path / "data") == ["c.jpg", "linked/a.jpg"]


def test_dangling_links_are_reported(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "batch").symlink_to("/nowhere/at/all")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    found = walk(tmp_path)
    assert [path.name for path in found.files] == ["a.jpg"]
    assert [one.path.name for one in found.unreachable] == ["batch", "gone.jpg", "itself.jpg"]
    assert "nowhere.jpg" in found.unreachable[1].reason


def test_links_that_lead_nowhere_are_no_subfolders(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "alias").symlink_to("cat")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    assert [one.name for one in subfolders(tmp_path)] == ["alias", "cat"]


def test_folders_and_pipes_are_never_images(tmp_path: Path) -> None:
    touch(tmp_path, "album.jpg/in.jpg", "b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = walk(tmp_path)
    assert [path.name for path in found.images] == ["in.jpg", "b.jpg"]
    assert [one.path.name for one in found.not_followed] == ["pipe.jpg"]


def test_images_are_known_by_their_suffix_or_have_none(tmp_path: Path) -> None:
    touch(tmp_path, "a.JPG", "b.jfif", "c", "d.txt", "e.webp")
    assert [path.name for path in find_images(tmp_path)] == ["a.JPG", "b.jfif", "c", "e.webp"]
    assert find_images(tmp_path / "d.txt") == (tmp_path / "d.txt",)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Train", "train"), ("TRAINING", "train"), ("training_set", "train"),
        ("val", "val"), ("Valid", "val"), ("validation", "val"), ("Validation-Set", "val"),
        ("test", "test"), ("Testing", "test"), ("test_images", "test"), ("testset", "test"),
        ("trainer", None), ("contest", None), ("tests", None), ("set", None), ("dev", None),
    ],
)  # fmt: skip
def test_splits_are_known_by_their_usual_names_in_any_case(name: str, split: str | None) -> None:
    assert split_name(name) == split


def test_labels_have_one_unicode_form() -> None:
    assert label_name("ma\u0301scara") == label_name("máscara") == "m\u00e1scara"


def test_easily_confused_labels_are_found() -> None:
    labels = ["None", "cat", "none", "none ", "with_mask", "with mask", "dog", "---"]
    assert look_alikes(labels) == (("None", "none", "none "), ("with_mask", "with mask"))
