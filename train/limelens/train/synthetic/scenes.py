"""Makes a face-mask data set harder, because collected sets are too easy.

In collected sets bare faces are mostly tight crops and masked ones are not, so that a network
learns how much of a person is visible. Here every bare face that is found is added again: with a
drawn mask, with a hand, a scarf or a cup before the mouth, and as the face of a person drawn at
half length, with and without a mask. Knows the two labels of such a set, and nothing of networks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import hypot
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageFilter

from limelens.serve.errors import InvalidImageError
from limelens.serve.files import write_whole
from limelens.serve.image import read_image
from limelens.train.synthetic.distractors import (
    DISTRACTORS_CLEAR_OF_MOUTH,
    draw_distractor,
    random_distractor,
)
from limelens.train.synthetic.drawn_groups import (
    Groups,
    face_groups,
    mask_groups,
)
from limelens.train.synthetic.face import Face
from limelens.train.synthetic.face_masks import draw_mask, random_style
from limelens.train.synthetic.hiding import hide_around
from limelens.train.synthetic.painting import Pixels
from limelens.train.synthetic.portraits import LABELS, Label, render_portrait, run_jobs

WITH_MASK, WITHOUT_MASK = LABELS
RECORD: Final = "scenes.json"
"""The file in `out` that records how it was made; written last."""

_SPLITS: Final = ("train", "val")
_SCENE_SIZES: Final = (144, 224)
# Least and largest distance between the eyes, as a share of a scene's shorter side.
_SCENE_UNITS: Final = (0.06, 0.22)
_DISTRACTOR_SHARE: Final = 0.6
_BESIDE_A_MASK: Final = tuple(k for k in DISTRACTORS_CLEAR_OF_MOUTH if k != "chin_mask")
_SHORTEST_SIDE: Final = 96
# The smallest faces that the detector finds, as a share of the shorter side and in pixels.
_SMALLEST_FACE: Final = 0.35
_SMALLEST_FACE_PX: Final = 24


@dataclass(frozen=True)
class Counts:
    """How many bare faces were found in one split, and how many images were made from them."""

    faces: int
    images: int


def add_scenes(
    data: Path,
    out: Path,
    *,
    seed: int = 0,
    num_scenes: int = 2,
    hidden: bool = False,
    num_workers: int = 1,
) -> dict[str, Counts]:
    """Copies a face-mask set and adds images to its train and val splits; test stays as it is.

    The same arguments give the same files. `groups.csv` says of each added image what was drawn.

    Args:
        data: Splits, train among them, with the labels `with_mask` and `without_mask`.
        out: Created; must not exist.
        seed: Of everything that is drawn, 0 or more.
        num_scenes: Half-length scenes of each face, each once with and once without a mask.
        hidden: Whether images with hidden segments are added to train (see `hiding`), so that
            the network learns to use mask, mouth and nose. The other images stay the same.
        num_workers: Processes, as for `run_jobs`.

    Returns:
        What was added, by split.

    Raises:
        DataError: `data` has no splits or other labels or has its scenes already, or `out` exists.
        ValueError: A number is out of its range.
    """
    # Imported here: drawing needs only numpy and Pillow.
    from limelens.train.data.examples import DataError
    from limelens.train.data.groups_table import write_groups
    from limelens.train.data.label_folders import read_label_folders

    if seed < 0 or num_scenes < 0 or num_workers < 1:
        raise ValueError(
            f"seed is {seed}, num_scenes {num_scenes}, num_workers {num_workers}; "
            "expected at least 0, 0 and 1"
        )
    splits = read_label_folders(data).by_split
    if "train" not in splits or any({*s} != {*LABELS} for s in splits.values()):
        raise DataError(
            f"{data}: expected the folders train, val and test, train at least, each with "
            f"{WITH_MASK} and {WITHOUT_MASK} and no other label"
        )
    if (data / RECORD).exists():
        raise DataError(f"{data} already has its scenes ({RECORD}); use the set they came from")
    if out.exists():
        raise DataError(f"{out} exists; choose another folder or remove it")
    for split, by_label in splits.items():
        for label, paths in by_label.items():
            (out / split / label).mkdir(parents=True)
            for path in paths:
                # A label may have subfolders, with the same names in each.
                copy = out / split / label / Path(*path.relative_to(data).parts[2:])
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    counts = {}
    groups: dict[str, Groups] = {}
    for index, split in enumerate(_SPLITS):
        if split in splits:
            jobs = [
                (path, out / split, (seed, index, number), num_scenes, hidden and split == "train")
                for number, path in enumerate(splits[split][WITHOUT_MASK])
            ]
            made = run_jobs(_write_variations, jobs, num_workers)
            counts[split] = Counts(sum(map(bool, made)), sum(map(len, made)))
            for images in made:
                groups |= {f"{split}/{name}": row for name, row in images.items()}
    write_groups(out, groups)
    record = {"seed": seed, "num_scenes": num_scenes, "hidden": hidden}
    write_whole(out / RECORD, json.dumps(record) + "\n")
    return counts


def find_face(pixels: Pixels) -> Face | None:
    """The largest frontal face, by scikit-image's cascade of local binary patterns.

    Faces narrower than about a third of the shorter side are not found: images are of one person.
    """
    shorter = min(pixels.shape[:2])
    # The detector finds a face that fills the image only with a border around it.
    border = round(0.25 * shorter)
    padded = np.pad(pixels, ((border, border), (border, border), (0, 0)), mode="edge")
    smallest = max(_SMALLEST_FACE_PX, int(_SMALLEST_FACE * shorter))
    if smallest > min(padded.shape[:2]):
        return None
    found = _cascade().detect_multi_scale(
        img=padded,
        scale_factor=1.1,
        step_ratio=1,
        min_size=(smallest, smallest),
        max_size=padded.shape[:2],
        min_neighbor_number=2,
        intersection_score_threshold=0.3,
    )
    if not found:
        return None
    box = max(found, key=lambda box: int(box["width"]))
    return Face.from_box(box["c"] - border, box["r"] - border, box["width"], box["height"])


def set_into_scene(pixels: Pixels, face: Face, rng: np.random.Generator) -> tuple[Pixels, Face]:
    """Gives a drawn person the face of a photo, seen from the front.

    Returns:
        The scene, of another size, and where the photo's face is in it.
    """
    side = int(rng.integers(*_SCENE_SIZES))
    short = round(side * float(rng.uniform(0.65, 1.0)))
    size = (side, short) if rng.random() < 0.5 else (short, side)
    portrait = render_portrait(rng, size, unit=_SCENE_UNITS)
    # So that light comes from both sides equally often.
    if rng.random() < 0.5:
        pixels, face = pixels[:, ::-1], face.mirrored(pixels.shape[1])
    place = Face.posed(portrait.face.centre, portrait.face.unit, portrait.face.roll)
    matrix = _similarity(place, face)
    photo = Image.fromarray(np.ascontiguousarray(pixels))
    shrink = hypot(matrix[0], matrix[3])
    if shrink > 1:
        # A transform alone would skip pixels.
        photo = photo.filter(ImageFilter.GaussianBlur(0.4 * shrink))
    affine = Image.Transform.AFFINE
    warped = photo.transform(size[::-1], affine, matrix, Image.Resampling.BICUBIC)
    inside = Image.new("L", photo.size, 255).transform(size[::-1], affine, matrix)
    # The oval follows the drawn head, which may be turned.
    rows, columns = np.ogrid[: size[0], : size[1]]
    x, y = portrait.face.from_pixels(*(np.add(at, 0.5, dtype=np.float32) for at in (columns, rows)))
    wide, high = rng.uniform(1.0, 1.25), rng.uniform(1.45, 1.8)
    oval = (x / wide) ** 2 + ((y - 0.45) / high) ** 2 < 1
    cover = np.where(oval, np.asarray(inside), np.uint8(0))
    soft = Image.fromarray(cover).filter(ImageFilter.GaussianBlur(0.08 * place.unit))
    # Fades out before the photo's own edge: beyond it there is only black.
    alpha = np.clip(np.asarray(soft)[..., None] / 127.5 - 1, 0, 1)
    mixed = np.asarray(warped) * alpha + portrait.image * (1 - alpha)
    return (mixed + 0.5).astype(np.uint8), place


def _write_variations(
    path: Path, folder: Path, seed: tuple[int, int, int], num_scenes: int, hidden: bool
) -> dict[str, Groups]:
    """Writes all variations of one bare image to a split's folder; returns what was drawn in each.

    They are named by their paths in the folder.
    """
    try:
        pixels = read_image(path.read_bytes())
    except InvalidImageError:
        return {}
    face = find_face(pixels)
    if face is None:
        return {}
    rng = np.random.default_rng(seed)
    drawn: dict[str, Groups] = {}
    for label, kind, image, groups in _variations(pixels, face, num_scenes, hidden, rng):
        # Several images may have one stem, and a prefix could make a stem too long.
        name = f"{kind}-{seed[-1]:05d}-{path.stem[:40]}.jpg"
        quality = int(rng.integers(70, 95))
        Image.fromarray(image).save(folder / label / name, quality=quality)
        drawn[f"{label}/{name}"] = groups
    return drawn


def _variations(
    pixels: Pixels, face: Face, num_scenes: int, hidden: bool, rng: np.random.Generator
) -> Iterator[tuple[Label, str, Pixels, Groups]]:
    """Label, name, image and groups of every variation of a bare face."""
    scale = _SHORTEST_SIDE / min(pixels.shape[:2])
    if scale > 1:  # so that drawn shapes are not coarser than the photo
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        face = face.scaled(scale)
    places = [(pixels, face)]
    yield WITH_MASK, "masked", *_masked(pixels, face, rng)
    yield WITHOUT_MASK, "disturbed", *_disturbed(pixels, face, rng)
    for number in range(num_scenes):
        scene, place = set_into_scene(pixels, face, rng)
        places.append((scene, place))
        is_disturbed = rng.random() < _DISTRACTOR_SHARE
        bare = _disturbed(scene, place, rng) if is_disturbed else (scene, _bare(scene, place))
        yield WITHOUT_MASK, f"scene{number}", *bare
        yield WITH_MASK, f"scene{number}", *_masked(scene, place, rng)

    if hidden:
        # The photo and its first scene.
        for number, (image, place) in enumerate(places[:2]):
            for label, kind, varied in _hidden(image, place, rng):
                yield label, f"{kind}{number}", varied, {}


def _hidden(
    pixels: Pixels, face: Face, rng: np.random.Generator
) -> Iterator[tuple[Label, str, Pixels]]:
    """A face with and without a mask, with all, some or nothing of the decisive region shown.

    The label is drawn: `with_mask` is as likely as not where nothing of the region is seen, and
    the more certain the more of it is. A network that learns these chances loses its certainty
    gradually when segments are hidden, as a linear surrogate assumes.
    """
    masked, region = draw_mask(pixels, face, random_style(rng), rng)
    for number, chance in enumerate((0.0, float(rng.uniform(0.2, 0.8)), 1.0)):
        for kind, image, certain in (("mask", masked, 0.5), ("mouth", pixels, -0.5)):
            varied, shown = hide_around(image, region, rng, chance=chance)
            is_masked = rng.random() < 0.5 + certain * shown
            yield (WITH_MASK if is_masked else WITHOUT_MASK), f"hidden-{kind}{number}", varied


def _masked(pixels: Pixels, face: Face, rng: np.random.Generator) -> tuple[Pixels, Groups]:
    groups = _size_groups(pixels, face)
    if rng.random() < 0.2:
        kind = random_distractor(rng, _BESIDE_A_MASK)
        pixels = draw_distractor(pixels, face, rng, kind)
    style = random_style(rng)
    return draw_mask(pixels, face, style, rng)[0], {**groups, **mask_groups(style)}


def _disturbed(pixels: Pixels, face: Face, rng: np.random.Generator) -> tuple[Pixels, Groups]:
    kind = random_distractor(rng)
    groups = {**_size_groups(pixels, face), "before_mouth": kind}
    return draw_distractor(pixels, face, rng, kind), groups


def _bare(pixels: Pixels, face: Face) -> Groups:
    return {**_size_groups(pixels, face), "before_mouth": "nothing"}


def _size_groups(pixels: Pixels, face: Face) -> Groups:
    return face_groups(face, *pixels.shape[:2], posed=False)


def _similarity(target: Face, source: Face) -> tuple[float, float, float, float, float, float]:
    """Pillow's affine coefficients that bring the source's eyes to the target's."""
    t_left, t_right = complex(*target.left_eye), complex(*target.right_eye)
    s_left, s_right = complex(*source.left_eye), complex(*source.right_eye)
    turn = (s_right - s_left) / (t_right - t_left)
    shift = s_left - turn * t_left
    return turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag


@cache
def _cascade() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]
