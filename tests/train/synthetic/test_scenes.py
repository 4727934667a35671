"""Bare faces of a set are added masked, disturbed and in scenes; its own images stay."""

import csv
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.data import astronaut

from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import DataError
from limelens.train.data.groups_table import GROUPS_FILE
from limelens.train.synthetic import Counts, Face, add_scenes
from limelens.train.synthetic.scenes import RECORD, WITH_MASK, find_face, set_into_scene

LEFT_EYE, RIGHT_EYE = (203.7, 101.2), (246.8, 103.5)


def crop(left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
    """A part of scikit-image's portrait, 512x512, of Eileen Collins."""
    whole: NDArray[np.uint8] = astronaut()  # type: ignore[no-untyped-call]
    return whole[top:bottom, left:right]


@pytest.mark.parametrize(
    ("left", "top", "right", "bottom"),
    [(100, 20, 340, 260), (160, 50, 290, 180), (90, 0, 360, 230)],
)
def test_a_face_is_found_in_a_crop_of_it(left: int, top: int, right: int, bottom: int) -> None:
    face = find_face(crop(left, top, right, bottom))
    assert face is not None
    for found, expected in ((face.left_eye, LEFT_EYE), (face.right_eye, RIGHT_EYE)):
        assert found[0] + left == pytest.approx(expected[0], abs=7)
        assert found[1] + top == pytest.approx(expected[1], abs=7)


@pytest.mark.parametrize("shape", [(160, 120), (24, 24), (10, 200), (3, 3), (1, 1)])
def test_no_face_is_found_in_noise_of_any_size(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert find_face(noise) is None


def ramps(face: Face, height: int, width: int) -> NDArray[np.uint8]:
    """A photo that is the redder the further right and the bluer the further down on its face."""
    columns = np.arange(width, dtype=np.float32)[None, :] + 0.5
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
    x, y = face.from_pixels(columns, rows)
    colours = np.stack([128 + 240 * x, np.full_like(x, 200), 128 + 200 * (y - 0.4)], axis=-1)
    return colours.clip(0, 255).astype(np.uint8)


def test_a_scene_has_the_face_of_the_photo_at_its_place() -> None:
    face = Face((20.0, 45.0), (60.0, 45.0))
    photo = ramps(face, 120, 100)
    mirrors = set()
    for seed in range(12):
        scene, place = set_into_scene(photo, face, np.random.default_rng(seed))
        assert scene.dtype == np.uint8
        assert 144 * 0.64 < min(scene.shape[:2]) <= max(scene.shape[:2]) < 224
        points = place.to_pixels(np.array([(-0.4, 0.0), (0.4, 0.0), (-0.3, 0.8), (0.3, 0.8)]))
        columns, rows = np.floor(points).astype(int).T
        x, y = place.from_pixels(*(np.float32(0.5) + np.stack([columns, rows])).astype(np.float32))
        red, green, blue = scene[rows, columns].astype(int).T
        side = 1 if red[1] > red[0] else -1
        assert np.abs(red - (128 + side * 240 * x)).max() < 8, seed
        assert np.abs(green - 200).max() < 8, seed
        assert np.abs(blue - (128 + 200 * (y - 0.4))).max() < 8, seed
        mirrors.add(side)
    assert mirrors == {1, -1}


def test_a_photo_that_ends_within_the_face_leaves_no_dark_rim() -> None:
    white = np.full((60, 100, 3), 255, dtype=np.uint8)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scene, _ = set_into_scene(white, Face((20.0, 30.0), (60.0, 30.0)), rng)
        # A face outside of its photo leaves the drawn person as it is.
        rng = np.random.default_rng(seed)
        person, _ = set_into_scene(white, Face((900.0, 900.0), (940.0, 900.0)), rng)
        assert (scene.astype(int) - person).min() >= -1, seed
        assert (scene.astype(int) - person).max() > 0, seed


def test_the_size_of_a_photo_does_not_change_where_its_face_goes() -> None:
    face = Face((20.0, 45.0), (60.0, 45.0))
    one, place = set_into_scene(ramps(face, 120, 100), face, np.random.default_rng(3))
    large = face.scaled(3)
    other, same = set_into_scene(ramps(large, 360, 300), large, np.random.default_rng(3))
    assert place == same
    assert np.abs(one.astype(int) - other).max() < 12


def test_the_same_seed_sets_the_same_scene() -> None:
    photo, face = crop(100, 20, 340, 260), Face((103.5, 81.0), (146.5, 83.0))
    first, place = set_into_scene(photo, face, np.random.default_rng(4))
    again, same = set_into_scene(photo, face, np.random.default_rng(4))
    other, _ = set_into_scene(photo, face, np.random.default_rng(5))
    assert np.array_equal(first, again)
    assert place == same
    assert first.shape != other.shape or not np.array_equal(first, other)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train, validation and test; of the bare train images three are faces and one is broken."""
    folder = tmp_path_factory.mktemp("data")
    whole = crop(100, 20, 340, 260)
    images = {
        "train/without_mask/a.jpg": whole,
        "train/without_mask/a.png": whole[:, ::-1],
        "train/without_mask/more/a.jpg": crop(160, 50, 290, 180)[::2, ::2],
        "train/with_mask/a.jpg": crop(0, 300, 150, 450),
        "validation/without_mask/a.jpg": crop(90, 0, 360, 230),
        "validation/without_mask/sky.jpg": crop(0, 300, 150, 450),
        "validation/with_mask/a.jpg": whole,
        "test/without_mask/a.jpg": whole,
        "test/with_mask/a.jpg": whole[::-1],
    }
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    (folder / "train" / "without_mask" / "broken.jpg").write_bytes(b"no image")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Counts]]:
    out = tmp_path_factory.mktemp("made") / "out"
    return out, add_scenes(data, out, seed=5)


def test_every_face_that_is_found_comes_back_with_and_without_a_mask(
    made: tuple[Path, dict[str, Counts]],
) -> None:
    out, counts = made
    assert counts == {"train": Counts(faces=3, images=18), "val": Counts(faces=1, images=6)}
    for split, count in counts.items():
        for label in ("with_mask", "without_mask"):
            added = sorted((out / split / label).glob("*-0*.jpg"))
            assert len(added) == count.images // 2
            kinds = {path.name.split("-")[0] for path in added}
            first = "masked" if label == "with_mask" else "disturbed"
            assert kinds == {first, "scene0", "scene1"}
    with Image.open(out / "train" / "with_mask" / "masked-00003-a.jpg") as image:
        assert image.format == "JPEG"


def test_small_photos_are_enlarged(made: tuple[Path, dict[str, Counts]]) -> None:
    for path in made[0].rglob("*-0*.jpg"):
        with Image.open(path) as image:
            assert min(image.size) >= 93, path


def test_own_images_stay_and_the_test_split_gets_nothing(
    data: Path, made: tuple[Path, dict[str, Counts]]
) -> None:
    before = {name.replace("validation/", "val/"): h for name, h in contents(data).items()}
    after = contents(made[0])
    assert before.items() <= after.items()
    assert {n: h for n, h in before.items() if n.startswith("test/")} == {
        n: h for n, h in after.items() if n.startswith("test/")
    }
    assert {*after} - {*before} >= {"scenes.json"}


def test_a_run_can_read_the_result(made: tuple[Path, dict[str, Counts]]) -> None:
    dataset = read_dataset(made[0], max_skipped_share=0.1)
    assert dataset.counts("train") == {"with_mask": 1 + 9, "without_mask": 3 + 9}
    assert dataset.counts("test") == {"with_mask": 1, "without_mask": 1}
    assert len(dataset.skipped) == 1


def test_two_workers_make_the_same_files_and_another_seed_others(
    data: Path, made: tuple[Path, dict[str, Counts]], tmp_path: Path
) -> None:
    out, counts = made
    assert add_scenes(data, tmp_path / "same", seed=5, num_workers=2) == counts
    assert contents(tmp_path / "same") == contents(out)
    add_scenes(data, tmp_path / "other", seed=6)
    one, other = contents(out), contents(tmp_path / "other")
    assert one.keys() == other.keys()
    changed = {name for name in one if one[name] != other[name]}
    assert changed == {name for name in one if "-0" in name} | {RECORD, GROUPS_FILE}


def test_without_scenes_there_are_two_images_of_a_face(data: Path, tmp_path: Path) -> None:
    counts = add_scenes(data, tmp_path / "out", num_scenes=0)
    assert counts["train"] == Counts(faces=3, images=6)


def test_a_table_says_what_was_drawn_in_each_added_image(
    made: tuple[Path, dict[str, Counts]],
) -> None:
    out, _ = made
    with (out / GROUPS_FILE).open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    added = {path.relative_to(out).as_posix() for path in out.rglob("*-0*.jpg")}
    assert {*rows} == added
    for image, row in rows.items():
        assert bool(row["mask_pattern"]) == ("/with_mask/" in image)
        assert bool(row["before_mouth"]) == ("/without_mask/" in image)


def test_hidden_segments_are_added_to_train_alone_and_change_nothing_else(
    data: Path, made: tuple[Path, dict[str, Counts]], tmp_path: Path
) -> None:
    out, counts = made
    more = add_scenes(data, tmp_path / "out", seed=5, hidden=True)
    assert more["train"].images == counts["train"].images + 12 * counts["train"].faces
    assert more["val"] == counts["val"]
    before, after = contents(out), contents(tmp_path / "out")
    added = set(after) - set(before)
    others = {*before} - {RECORD, GROUPS_FILE}
    assert {name: after[name] for name in others} == {name: before[name] for name in others}
    assert len(added) == 12 * counts["train"].faces
    # The label is certain only where all that decides is shown.
    masked, bare = (
        [name for name in added if f"hidden-{kind}0" in name] for kind in ("mask", "mouth")
    )
    assert len(masked) == len(bare) == 2 * counts["train"].faces
    assert all(f"/{WITH_MASK}/" in name for name in masked)
    assert not any(f"/{WITH_MASK}/" in name for name in bare)


def test_a_folder_that_exists_is_refused_and_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="exists"):
        add_scenes(data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_other_labels_no_splits_and_a_set_with_scenes_are_refused(
    data: Path, made: tuple[Path, dict[str, Counts]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(data / "train", tmp_path / "other" / "train")
    (tmp_path / "other" / "train" / "with_mask").rename(tmp_path / "other" / "train" / "masked")
    shutil.copytree(data / "test", tmp_path / "untrained" / "test")
    for folder in (tmp_path / "other", data / "train", tmp_path / "untrained"):
        with pytest.raises(DataError, match="with_mask and without_mask and no other"):
            add_scenes(folder, out)
    with pytest.raises(DataError, match="already has its scenes"):
        add_scenes(made[0], out)
    with pytest.raises(DataError, match="is no folder"):
        add_scenes(tmp_path / "nothing", out)
    assert not out.exists()


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"num_scenes": -1}, {"num_workers": 0}])
def test_numbers_out_of_range_are_refused(
    data: Path, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="expected at least 0, 0 and 1"):
        add_scenes(data, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()
