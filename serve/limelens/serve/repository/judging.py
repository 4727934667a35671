"""Is a version clearly worse than the one that it would replace? A paired test on labelled images.

Both versions run on the same images, those that travel in their bundles or those of a folder. It
knows nothing of what is served, nor of what becomes of a version that is worse.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle, Metadata, Task, check_model
from limelens.serve.bundle.checks import read_bundle_file
from limelens.serve.bundle.golden_images import GoldenImage, encode_golden
from limelens.serve.bundle.loading import load_bundle
from limelens.serve.bundle.signatures import check_signature
from limelens.serve.decisions.decision import decide
from limelens.serve.errors import (
    BundleError,
    InvalidImageError,
    LimelensError,
    ModelOutputError,
)
from limelens.serve.folders import find_images, label_name, subfolders
from limelens.serve.image import ResizeRule, read_image

CLEARLY: Final = 0.05
"""A version is clearly worse if equal ones would differ as much less often than this."""
FEWEST_IMAGES: Final = 5
"""Fewer cannot show a difference: 0.5 ** 4 is more than `CLEARLY`."""
MOST_IMAGES: Final = 1000
"""That are used of a folder."""
_THUMBNAIL: Final = ResizeRule(8, 8)
_ALIKE: Final = 3.0
"""Mean difference of two thumbnails, of 255, of one image in two sizes; others differ by more."""


@dataclass(frozen=True)
class Judgement:
    """What a comparison found.

    Args:
        is_worse: Whether the new version is clearly worse.
        text: The figures, or why there are none, in words.
        is_judged: Whether there are figures.
        is_rival_usable: Whether the version that it was to be compared with could be loaded.
    """

    is_worse: bool
    text: str
    is_judged: bool = True
    is_rival_usable: bool = True


@dataclass(frozen=True, eq=False)
class Rival:
    """The version that a new one would replace.

    Args:
        version: Its number.
        words: What it is called beside the new one.
        path: Its file, if that is what is meant.
        data: The bytes of the file that is served, which may have changed since; empty if it is
            not loaded.
    """

    version: int
    words: str
    path: Path
    data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Scores of both versions on the same images, `(N,)`, 0 to 1."""

    new: NDArray[np.float64]
    old: NDArray[np.float64]

    @property
    def p(self) -> float:
        """The chance of so many losses or more, if a version gained as often as it lost.

        A one-sided sign test. Of scores that are 0 or 1 it is the exact test of McNemar (1947).
        """
        num_lost = int((self.new < self.old).sum())
        num = num_lost + int((self.new > self.old).sum())
        return float(sum(math.comb(num, k) for k in range(num_lost, num + 1)) / 2**num)

    def text(self, images: str, rival: str, p: float) -> str:
        """The figures, in words."""
        count = len(self.new)
        if {*self.new, *self.old} <= {0.0, 1.0}:
            new, old = round(self.new.sum()), round(self.old.sum())
            return f"right on {new} of {count} {images}, {rival} on {old} (p = {p:.2g})"
        return (
            f"mean F1 {self.new.mean():.3f} on {count} {images}, {rival} {self.old.mean():.3f} "
            f"(p = {p:.2g})"
        )


def judge_against(
    rival: Rival,
    load: Callable[[], Bundle],
    resize: ResizeRule,
    public_keys: Sequence[Path] = (),
    folder: Path | None = None,
) -> Judgement:
    """Loads two versions on the CPU and judges the one against the other.

    Args:
        rival: What the version would replace.
        load: Loads the version.
        resize: Of the version.
        public_keys: The rival must be signed with one of these, if it is a file.
        folder: See `images_of`; None judges by golden images.
    """
    try:
        data, metadata = (
            (rival.data, check_model(onnx.load_model_from_string(rival.data)))
            if rival.data
            else read_checked(rival.path, public_keys)
        )
        old = loaded(rival.path, data, metadata)
    except LimelensError as error:
        text = f"{rival.words} cannot be run on the CPU: {error}"
        return Judgement(False, text, is_judged=False, is_rival_usable=False)
    given: Sequence[GoldenImage] = ()
    if folder is not None:
        try:
            # As large as either sees them: enlarged ones would speak against a larger input.
            larger = max(metadata.resize, resize, key=lambda rule: max(rule.height, rule.width))
            given = images_of(folder, larger)
        except (BundleError, OSError) as error:
            # An operator who names images wants nothing to take over without them.
            return Judgement(True, f"the images to judge it by cannot be read: {error}")
    try:
        return judge(load(), old, rival.words, given)
    except LimelensError as error:
        return Judgement(False, str(error), is_judged=False)


def read_checked(path: Path, public_keys: Sequence[Path] = ()) -> tuple[bytes, Metadata]:
    """Reads a bundle's bytes and checks them, in this process."""
    data, metadata = read_bundle_file(path)
    if public_keys:
        check_signature(data, path, public_keys)
    return data, metadata


def loaded(path: Path, data: bytes, metadata: Metadata) -> Bundle:
    """A bundle of checked bytes on the CPU, for one thread."""
    return load_bundle(path, "cpu", num_threads=1, read=lambda _: (data, metadata))


def judge(new: Bundle, old: Bundle, rival: str, given: Sequence[GoldenImage] = ()) -> Judgement:
    """Judges a version on images that show labels of the version that it would replace.

    If none are given these are golden images: those of the old version, and those of both together.
    The old version was accepted on its own, so that a new one with labels in another order fails
    there; its own may be among the images that the new one was trained on, and the other way round,
    which evens out in both together. Either may show that the new one is worse (p of two tests:
    twice the smaller). An image of a label that a version lacks is wrong for that version.

    Args:
        new: The version that would take over.
        old: The version that it would replace.
        rival: `old` in words.
        given: Images with one label each, for a multiclass bundle that knows some of the labels.

    Returns:
        The judgement; there are no figures with fewer than `FEWEST_IMAGES` images.

    Raises:
        BundleError: An image cannot be decoded.
        ModelOutputError: The old version gives no probabilities.
    """
    known = set(old.labels)
    images = _labelled(given, known) if old.task is Task.MULTICLASS else []
    words = "given images"
    sizes = {len(images)}
    if not images:
        own = list(dict.fromkeys(old.metadata.golden_images))
        theirs = _labelled(new.metadata.golden_images, known)
        images, words = [*own, *_others(theirs, own)], "golden images"
        sizes = {len(own), len(images)}
    if len(images) < FEWEST_IMAGES:
        text = f"there are too few golden images in it and in {rival}"
        return Judgement(False, text, is_judged=False)
    try:
        new_scores = scores(new, images)
    except ModelOutputError as error:
        return Judgement(True, f"it fails on {words}: {error}")
    old_scores = scores(old, images)
    tests = [_Comparison(new_scores[:num], old_scores[:num]) for num in sizes if num]
    worst = min(tests, key=lambda one: one.p)
    p = min(1.0, len(tests) * worst.p)
    text = worst.text(words, rival, p)
    missing = sorted(known - set(new.labels))
    if missing:
        text += f"; it lacks the label{'s' * (len(missing) > 1)} {', '.join(missing)}"
    return Judgement(p < CLEARLY, text)


def scores(bundle: Bundle, images: Sequence[GoldenImage]) -> NDArray[np.float64]:
    """How right a bundle is about each image: `(N,)`, 0 to 1.

    The F1 of the decided labels: 1 or 0 for the most probable label of a multiclass bundle,
    whatever its threshold, because that is a matter of taste.
    """
    found = []
    for start in range(0, len(images), bundle.batch_size):
        part = images[start : start + bundle.batch_size]
        pixels = np.stack([image.fitted(bundle.metadata.resize) for image in part])
        for image, probabilities in zip(part, bundle.predict(pixels), strict=True):
            if bundle.task is Task.MULTICLASS:
                decided = {bundle.labels[int(probabilities.argmax())]}
            else:
                decided = set(decide(probabilities, bundle.metadata).labels)
            labels = set(image.labels)
            num = len(decided) + len(labels)
            found.append(2 * len(decided & labels) / num if num else 1.0)
    return np.array(found)


def images_of(folder: Path, rule: ResizeRule) -> tuple[GoldenImage, ...]:
    """The images in a folder for each label, `MOST_IMAGES` at most, evenly over the files.

    Files that cannot be read are left out.

    Args:
        folder: Holds a folder for each label.
        rule: They are made smaller for this input.

    Raises:
        OSError: The folder cannot be listed.
        BundleError: It has no folders with readable images.
    """
    files = [
        (label_name(one.name), path) for one in subfolders(folder) for path in find_images(one)
    ]
    found = []
    for label, path in files[:: math.ceil(len(files) / MOST_IMAGES) or 1]:
        with contextlib.suppress(InvalidImageError, OSError):
            pixels = read_image(path.read_bytes())
            found.append(GoldenImage((label,), encode_golden(pixels, rule)))
    if not found:
        raise BundleError(
            f"{folder}: no images that can be read; expected a folder of them for each label"
        )
    return tuple(found)


def _labelled(images: Iterable[GoldenImage], known: set[str]) -> list[GoldenImage]:
    """Those whose labels are all known."""
    return [image for image in images if known.issuperset(image.labels)]


def _others(images: Sequence[GoldenImage], own: Sequence[GoldenImage]) -> list[GoldenImage]:
    """Those that are not among `own` in another size: counted twice, they would prove too much."""
    if not images or not own:
        return list(images)
    seen = _thumbnails(own)
    return [
        image
        for image, thumbnail in zip(images, _thumbnails(images), strict=True)
        if np.abs(seen - thumbnail).mean(axis=1).min() > _ALIKE
    ]


def _thumbnails(images: Sequence[GoldenImage]) -> NDArray[np.int64]:
    """`(N, 192)`, 0 to 255."""
    return np.array([image.fitted(_THUMBNAIL).ravel() for image in images], dtype=np.int64)
