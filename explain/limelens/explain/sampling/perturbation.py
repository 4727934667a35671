"""Perturbed images: the fill of hidden segments, and the image of each sample (section 3.3).

Knows segments and pixels. Does not know the model.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from limelens.explain.segmentation.segments import Segmentation, distinct
from limelens.explain.settings import Hide, Sampling

_TILES = 18  # of a shuffled image, along its shorter side
_TURNS = 7  # names a random stream
_FEW_WINDOWS = 16  # are kept as they differ from the image
_CANVAS = 3  # times the image's sides: windows of two samples then seldom share much


@dataclass(frozen=True, eq=False)
class Fill:
    """The fill of hidden segments.

    Attributes:
        canvas: `(H', W', 3)` uint8, of the image's size or larger.
        corners: `(N, 2)` intp, where each sample's window of the canvas begins, or None where the
            canvas has the image's size and all samples share it.
    """

    canvas: NDArray[np.uint8]
    corners: NDArray[np.intp] | None = None


@dataclass(frozen=True, eq=False)
class Perturbation:
    """Turns rows of the design matrix into images.

    Segments lie in horizontal runs of pixels, so a row of bits becomes a byte mask by repeating
    each run's byte: 0.006 ms for a 144x144 image, where indexing pixel by pixel takes 0.1 ms.

    Attributes:
        image: `(H, W, 3)` uint8, the image.
        fill: The fill of hidden segments.
        columns: `(H, W)` intp, each pixel's column, K where nothing hides it.
        run_columns: `(R,)` The column of each run.
        run_lengths: `(R,)` Its length in bytes.
        hideable: `(H, W, 1)` uint8, 255 where a column hides the pixel, else 0.
        paired: Whether rows 2i and 2i+1 complement each other and share what hides.
    """

    image: NDArray[np.uint8]
    fill: Fill
    columns: NDArray[np.intp]
    run_columns: NDArray[np.intp]
    run_lengths: NDArray[np.intp]
    hideable: NDArray[np.uint8]
    paired: bool

    def images(self, visible: NDArray[np.bool_], first: int = 0) -> NDArray[np.uint8]:
        """One image per row.

        With `d = image ^ hidden` and m the mask of hidden bytes, an image is `image ^ (d & m)`,
        and its pair's, whose mask is the complement, is `image ^ d`.

        Args:
            visible: `(B, K)` bool.
            first: Which sample the first of these rows is.

        Returns:
            `(B, H, W, 3)` uint8, a new array.
        """
        step = 2 if self.paired and first % 2 == 0 else 1
        bytes_ = self._hidden_bytes(visible[::step])
        differing = self._differing(first, bytes_.shape[0], step)
        np.bitwise_and(bytes_, differing, out=bytes_)
        if step == 1:
            np.bitwise_xor(bytes_, self.image, out=bytes_)
            return bytes_
        images = np.empty((visible.shape[0], *self.image.shape), dtype=np.uint8)
        np.bitwise_xor(bytes_, self.image, out=images[0::2])
        num_pairs = visible.shape[0] // 2
        whole = differing if differing.ndim == 3 else differing[:num_pairs]
        np.bitwise_xor(images[0::2][:num_pairs], whole, out=images[1::2])
        return images

    def _hidden_bytes(self, visible: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """255 for each byte that a row hides, else 0: `(B, H, W, 3)`."""
        is_new = np.ones(visible.shape[0], dtype=np.bool_)  # a row recurs, in several fills
        is_new[1:] = (visible[1:] != visible[:-1]).any(axis=1)
        rows = visible[is_new]
        masks = np.zeros((rows.shape[0], rows.shape[1] + 1), np.uint8)
        masks[:, :-1][~rows] = 255
        runs = masks.take(self.run_columns, axis=1)
        bytes_ = np.repeat(runs, self.run_lengths, axis=1).reshape(-1, *self.image.shape)
        return bytes_ if is_new.all() else bytes_.take(np.cumsum(is_new) - 1, axis=0)

    @cached_property
    def _differing_shared(self) -> NDArray[np.uint8]:
        differing: NDArray[np.uint8] = (self.image ^ self.fill.canvas) & self.hideable
        return differing

    @cached_property
    def _differing_by_window(self) -> tuple[NDArray[np.uint8], NDArray[np.intp]] | None:
        """Where the image differs from each window, and the window of each sample, if few recur."""
        if self.fill.corners is None:
            return None
        corners, place = np.unique(self.fill.corners, axis=0, return_inverse=True)
        if len(corners) > _FEW_WINDOWS or len(corners) == place.size:
            return None
        height, width = self.image.shape[:2]
        windows = [self.fill.canvas[y : y + height, x : x + width] for y, x in corners.tolist()]
        return (np.stack(windows) ^ self.image) & self.hideable, place.ravel()

    def _differing(self, first: int, count: int, step: int) -> NDArray[np.uint8]:
        """Where image and fill differ, as bits: `(H, W, 3)`, or one for each window."""
        corners = self.fill.corners
        if corners is None:
            return self._differing_shared
        if self._differing_by_window is not None:
            each, place = self._differing_by_window
            return each.take(place[first : first + step * count : step], axis=0)
        height, width = self.image.shape[:2]
        differing = np.empty((count, *self.image.shape), dtype=np.uint8)
        windows = corners[first : first + step * count : step].tolist()
        for one, (top, left) in zip(differing, windows, strict=True):
            hidden = self.fill.canvas[top : top + height, left : left + width]
            np.bitwise_xor(self.image, hidden, out=one)
            np.bitwise_and(one, self.hideable, out=one)
        return differing


def perturbation(
    image: NDArray[np.uint8],
    segmentation: Segmentation,
    hide: Hide,
    *,
    num_samples: int,
    sampling: Sampling = "independent",
    seed: int = 0,
    truncate: bool = False,
    references: NDArray[np.uint8] | None = None,
) -> Perturbation:
    """Prepare, once per image, what every sample needs.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        segmentation: Its segments.
        hide: "mean" paints each segment in its mean colour, "blur" blurs away what is as small as
            a segment, `(r, g, b)` paints that colour, "shuffle" puts soft tiles from anywhere in
            the image there, different for each sample, and "references" shows what is there in
            other images, each in its turn.
        num_samples: N.
        sampling: "paired": rows 2i and 2i+1 will complement each other, and get the same fill.
        seed: Of tiles and turns. A smaller number of samples gets the first of a larger one's.
        truncate: Round means down, as lime does, instead of to the nearest.
        references: `(M, H, W, 3)` uint8, for "references".
    """
    if hide == "shuffle":
        # Not the stream of the rows: they must not depend on the fill.
        fill = _shuffled(image, num_samples, sampling, np.random.default_rng([seed, _TILES]))
    elif hide == "references":
        if references is None:
            raise ValueError("hide is 'references', but there are none")
        fill = _in_turns(references, num_samples, sampling, np.random.default_rng([seed, _TURNS]))
    elif hide == "mean":
        fill = Fill(_means(image, segmentation, truncate=truncate))
    elif hide == "blur":
        height, width = image.shape[:2]
        fill = Fill(_blurred(image, 0.8 * (height * width / segmentation.num_segments) ** 0.5))
    else:
        fill = Fill(np.broadcast_to(np.array(hide, dtype=np.uint8), image.shape).copy())
    columns = segmentation.columns.ravel()
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    lengths = np.diff(starts, append=columns.size)
    hideable = np.where(segmentation.columns < segmentation.num_segments, 255, 0)
    return Perturbation(
        image=image,
        fill=fill,
        columns=segmentation.columns,
        run_columns=columns[starts],
        run_lengths=(lengths * 3).astype(np.intp),
        hideable=hideable.astype(np.uint8)[..., np.newaxis],
        paired=sampling == "paired",
    )


def _means(
    image: NDArray[np.uint8], segmentation: Segmentation, *, truncate: bool
) -> NDArray[np.uint8]:
    """Each segment in its mean colour."""
    ids, index = distinct(segmentation.labels)
    flat = index.ravel()
    counts = np.bincount(flat, minlength=ids.size)
    sums = [np.bincount(flat, image[..., c].ravel(), minlength=ids.size) for c in range(3)]
    means = np.stack(sums, axis=1) / counts[:, np.newaxis]
    colours = (means if truncate else np.rint(means)).astype(np.uint8)
    return np.ascontiguousarray(colours[flat].reshape(image.shape))


def shown(images: NDArray[np.uint8], places: NDArray[np.intp]) -> Fill:
    """The fill that shows one of several images to each sample.

    Args:
        images: `(M, H, W, 3)` uint8, of the size of the image to be perturbed.
        places: `(N,)`, which of them each sample has.
    """
    count, height, width = images.shape[:3]
    canvas = np.ascontiguousarray(images).reshape(count * height, width, 3)
    tops = places.astype(np.intp) * height
    return Fill(canvas, np.stack([tops, np.zeros_like(tops)], axis=1))


def _shuffled(
    image: NDArray[np.uint8], num_samples: int, sampling: Sampling, rng: np.random.Generator
) -> Fill:
    """Tiles from anywhere in the image, softened so that no edge between them is visible.

    One canvas is much larger than the image, and each sample uses a window of it: moving a window
    is free, while laying new tiles costs as much as a run of a small model.
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) / _TILES))
    rows, cols = -(-_CANVAS * height // side), -(-_CANVAS * width // side)
    top = rng.integers(0, height - side + 1, size=(rows, cols))
    left = rng.integers(0, width - side + 1, size=(rows, cols))
    within = np.arange(side)
    y = top[:, np.newaxis, :, np.newaxis] + within[:, np.newaxis, np.newaxis]
    x = left[:, np.newaxis, :, np.newaxis] + within
    canvas = image[y, x].reshape(rows * side, cols * side, 3)
    spare = (canvas.shape[0] - height + 1, canvas.shape[1] - width + 1)
    corners = rng.integers(0, spare, size=(_num_windows(num_samples, sampling), 2))
    return Fill(_blurred(canvas, side / 4), _for_each(corners, num_samples, sampling))


def _in_turns(
    images: NDArray[np.uint8], num_samples: int, sampling: Sampling, rng: np.random.Generator
) -> Fill:
    """Images; all have a turn, in a random order, before any has another."""
    count = len(images)
    if count == 1:
        return Fill(images[0])
    num_windows = _num_windows(num_samples, sampling)
    turns = [rng.permutation(count) for _ in range(-(-num_windows // count))]
    return shown(images, _for_each(np.concatenate(turns)[:num_windows], num_samples, sampling))


def _num_windows(num_samples: int, sampling: Sampling) -> int:
    return num_samples if sampling == "independent" else (num_samples + 1) // 2


def _for_each(windows: NDArray[np.intp], num_samples: int, sampling: Sampling) -> NDArray[np.intp]:
    """The window of each sample; a pair shares one."""
    return windows if sampling == "independent" else np.repeat(windows, 2, axis=0)[:num_samples]


def _blurred(image: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
