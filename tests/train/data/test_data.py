from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import DataError
from limelens.train.data.listing import list_data, read_examples
from limelens.train.data.near_duplicates import near_duplicate_groups, perceptual_hash


def write(path: Path, seed: int, size: tuple[int, int] = (40, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def test_validation_is_read_as_val_and_labels_are_sorted(divided: Path) -> None:
    dataset = read_dataset(divided)
    assert dataset.labels == ("green", "red")
    assert {split: len(examples) for split, examples in dataset.splits.items()} == {
        "train": 48, "val": 16, "test": 12,
    }  # fmt: skip
    assert dataset.counts("val") == {"green": 8, "red": 8}


def test_data_without_splits_is_divided_the_same_way_for_the_same_seed(tmp_path: Path) -> None:
    for label in "ab":
        for index in range(40):
            write(tmp_path / label / f"{index}.jpg", hash((label, index)) % 2**31)
    first, again, other = (read_dataset(tmp_path, seed=seed) for seed in (1, 1, 2))
    assert first.splits == again.splits
    assert first.splits != other.splits
    assert first.counts("val") == {"a": 4, "b": 4}
    assert first.counts("test") == {"a": 4, "b": 4}
    paths = [example.path for split in first.splits.values() for example in split]
    assert len(set(paths)) == len(paths) == 80


def test_near_duplicates_never_cross_splits(tmp_path: Path) -> None:
    for label in "ab":
        for index in range(30):
            write(tmp_path / label / f"{index}.jpg", index + (1000 if label == "b" else 0))
            # The same image at another size and quality.
            write(
                tmp_path / label / f"{index}_again.jpg",
                index + (1000 if label == "b" else 0),
                (52, 52),
            )
    dataset = read_dataset(tmp_path)
    where = {
        example.path: split for split, examples in dataset.splits.items() for example in examples
    }
    for path, split in where.items():
        if not path.stem.endswith("_again"):
            assert where[path.with_stem(path.stem + "_again")] == split


def test_a_burst_of_one_scene_goes_to_train(tmp_path: Path) -> None:
    for label in "ab":
        for index in range(40):
            write(tmp_path / label / f"{index}.jpg", hash((label, index)) % 2**31)
    for index in range(30):
        write(tmp_path / "a" / f"burst{index}.jpg", 7, (40 + index, 40 + index))
    for seed in range(5):
        dataset = read_dataset(tmp_path, seed=seed)
        assert dataset.counts("train")["a"] == 56
        assert dataset.counts("val")["a"] == dataset.counts("test")["a"] == 7
        assert not dataset.crossing


def test_a_rare_label_is_in_train_and_val(tmp_path: Path) -> None:
    for label, count in (("common", 30), ("rare", 2)):
        for index in range(count):
            write(tmp_path / label / f"{index}.jpg", hash((label, index)) % 2**31)
    dataset = read_dataset(tmp_path)
    assert dataset.counts("train")["rare"] == 1
    assert dataset.counts("val")["rare"] == 1


def test_near_duplicates_across_given_splits_are_reported(divided: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(divided, data)
    assert not read_dataset(data).crossing
    original = next((data / "train" / "red").iterdir())
    shutil.copy(original, data / "test" / "red" / "copy.png")
    assert read_dataset(data).crossing == ((data / "test" / "red" / "copy.png", original),)


def test_files_of_other_kinds_are_listed_and_do_not_stop_the_run(
    divided: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(divided, data)
    for index in range(30):
        (data / "train" / "red" / f"{index}.heic").write_bytes(b"ftypheic")
    skipped = read_dataset(data).skipped
    assert len(skipped) == 30
    assert {one.reason for one in skipped} == {".heic is not a supported image format"}


def test_a_train_folder_alone_gets_a_validation_split(tmp_path: Path) -> None:
    for label in "ab":
        for index in range(20):
            write(tmp_path / "train" / label / f"{index}.jpg", hash((label, index)) % 2**31)
    dataset = read_dataset(tmp_path)
    assert dataset.counts("val") == {"a": 2, "b": 2}
    assert dataset.counts("train") == {"a": 18, "b": 18}


def test_unreadable_files_are_skipped_with_their_reason(divided: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(divided, data)
    (data / "train" / "red" / "broken.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    (data / "train" / "red" / "empty.png").write_bytes(b"")
    dataset = read_dataset(data)
    reasons = {skipped.path.name: skipped.reason for skipped in dataset.skipped}
    assert set(reasons) == {"broken.jpg", "empty.png"}
    assert "HTML" in reasons["broken.jpg"]
    assert dataset.counts("train") == {"green": 24, "red": 24}


def test_too_many_unreadable_files_stop_the_run(divided: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(divided, data)
    for index in range(10):
        (data / "train" / "red" / f"broken{index}.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"10 of 86 files .* cannot be read, more than 5%"):
        read_dataset(data)


def test_the_digest_follows_the_content_and_not_the_place(divided: Path, tmp_path: Path) -> None:
    data = tmp_path / "moved"
    shutil.copytree(divided, data)
    before = read_dataset(divided).digest
    assert read_dataset(data).digest == before
    write(data / "train" / "red" / "new.png", 99)
    assert read_dataset(data).digest != before


@pytest.mark.parametrize(
    ("images", "empty", "message"),
    [
        ((), (), "no label folders"),
        (("only/a.jpg",), (), "one label folder, 'only'"),
        (("a/a.jpg",), ("b",), "label 'b' .* holds no image"),
        (
            ("train/a/a.jpg", "train/b/b.jpg", "val/c/c.jpg"),
            (),
            "val has the label 'c', which train lacks",
        ),
    ],
)
def test_unusable_data_is_refused_by_name(
    tmp_path: Path, images: tuple[str, ...], empty: tuple[str, ...], message: str
) -> None:
    for seed, image in enumerate(images):
        write(tmp_path / image, seed)
    for folder in empty:
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is no folder"):
        read_dataset(tmp_path / "nowhere")


def test_both_names_of_validation_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "validation"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="both val and validation"):
        list_data(tmp_path)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("Train", "Validation", "Test"), {"train", "val", "test"}),
        (("Training", "Testing"), {"train", "test"}),
        (("TRAIN", "valid"), {"train", "val"}),
        (("training_set", "test_set"), {"train", "test"}),
    ],
)
def test_split_folders_have_their_usual_names_in_any_case(
    tmp_path: Path, names: tuple[str, ...], splits: set[str]
) -> None:
    for number, name in enumerate(names):
        for label in "ab":
            write(tmp_path / name / label / "1.jpg", number)
    listing = list_data(tmp_path)
    assert {*listing.splits} == splits
    assert listing.labels == ("a", "b")


def test_splits_below_labels_are_refused(tmp_path: Path) -> None:
    for label in "ab":
        for split in ("Train", "test"):
            write(tmp_path / label / split / "1.jpg", 1)
    with pytest.raises(DataError, match="such as Train/a"):
        list_data(tmp_path)


def test_a_folder_around_the_data_is_named(tmp_path: Path) -> None:
    for label in "ab":
        write(tmp_path / "dataset" / label / "1.jpg", 1)
    with pytest.raises(DataError, match=r"did you mean .*dataset\?"):
        list_data(tmp_path)


def test_linked_folders_are_read_and_dangling_links_reported(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / "store" / f"{number}.jpg", number)
        write(tmp_path / "data" / "a" / f"{number}.jpg", 10 + number)
    (tmp_path / "data" / "b").symlink_to(tmp_path / "store")
    (tmp_path / "data" / "a" / "more").symlink_to(tmp_path / "nowhere")
    listing = list_data(tmp_path / "data")
    assert [len(listing.splits["all"]), listing.labels] == [12, ("a", "b")]
    assert [one.path.name for one in listing.skipped] == ["more"]


def test_a_link_from_label_to_label_puts_no_image_under_both(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for label in "ab":
        write(tmp_path / label / "1.jpg", ord(label))
    (tmp_path / "a" / "others").symlink_to(tmp_path / "b")
    listing = list_data(tmp_path)
    assert [example.target for example in listing.splits["all"]] == [0, 1]
    assert "others is left out" in caplog.text


def test_labels_have_one_unicode_form_in_every_split(tmp_path: Path) -> None:
    for split, name in (("train", "m\u00e1scara"), ("val", "ma\u0301scara")):
        for label in (name, "none"):
            write(tmp_path / split / label / "1.jpg", 1)
    assert list_data(tmp_path).labels == ("máscara", "none")
    assert read_examples(tmp_path, ["none", "ma\u0301scara"])[1][0].targets == (1,)


def test_easily_confused_labels_give_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for label in ("None", "none", "other"):
        write(tmp_path / label / "1.jpg", 1)
    list_data(tmp_path)
    assert "the labels 'None', 'none' differ only in case" in caplog.text


def test_evaluation_takes_test_and_matches_labels_by_name(divided: Path) -> None:
    name, examples, _ = read_examples(divided, ["red", "other", "green"])
    assert name == "test"
    assert {example.path.parent.name: example.target for example in examples} == {
        "green": 2, "red": 0,
    }  # fmt: skip
    assert read_examples(divided, ["red", "green"], "validation")[0] == "val"


def test_evaluation_names_an_unknown_label(divided: Path) -> None:
    with pytest.raises(DataError, match="the label 'red', which the model does not know"):
        read_examples(divided, ["green", "blue"])


def test_a_photo_and_its_smaller_copy_are_near_duplicates() -> None:
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
            (90, 90), Image.Resampling.BICUBIC
        )
        for _ in range(3)
    ]
    pixels = [np.asarray(p) for p in (*images, images[1].resize((64, 64)))]
    groups = near_duplicate_groups([perceptual_hash(p) for p in pixels])
    assert groups[3] == groups[1]
    assert len({int(group) for group in groups[:3]}) == 3


def test_a_mirrored_copy_is_a_near_duplicate_where_it_is_asked_for() -> None:
    rng = np.random.default_rng(2)
    images = [
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
            (90, 70), Image.Resampling.BICUBIC
        )
        for _ in range(3)
    ]
    mirrored = images[2].transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((72, 56))
    pixels = [np.asarray(one) for one in (*images, mirrored)]
    groups = near_duplicate_groups([perceptual_hash(one, mirrored=True) for one in pixels])
    assert groups.tolist() == [0, 1, 2, 2]
    groups = near_duplicate_groups([perceptual_hash(one) for one in pixels])
    assert groups.tolist() == [0, 1, 2, 3]


def test_bottles_of_one_shape_are_not_near_duplicates() -> None:
    rng = np.random.default_rng(1)
    bottle = np.zeros((90, 40, 3), dtype=np.uint8)
    bottle[:, :] = 255
    bottle[20:85, 12:28] = (30, 60, 30)
    bottles = []
    for _ in range(4):
        labelled = bottle.copy()
        labelled[40:70, 13:27] = rng.integers(0, 256, 3)
        bottles.append(labelled)
    hashes = [perceptual_hash(image) for image in bottles]
    assert len({one.gradients for one in hashes}) < 4
    assert len(set(near_duplicate_groups(hashes).tolist())) == 4
