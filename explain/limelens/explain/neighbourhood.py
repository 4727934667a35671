"""The neighbourhood: which segments each sample shows, and the pictures that follow (section 3.3).

Knows random numbers, segments and pixels. Does not know the model.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from limelens.explain.segments import Segmentation

Sampling = Literal["paired", "independent"]
Hide = Literal["mean", "blur"] | tuple[int, int, int]


def draw(
    rng: np.random.Generator, num_samples: int, num_segments: int, sampling: Sampling
) -> NDArray[np.bool_]:
    """Which segments each sample shows, each with probability 1/2.

    The rows of a smaller draw are the first rows of a larger one from the same seed.

    Args:
        rng: the source of randomness.
        num_samples: N.
        num_segments: K.
        sampling: "paired" follows each row z by 1 - z, so that rows 2i and 2i+1 complement each
            other and odd errors of the surrogate cancel.

    Returns:
        `(N, K)` bool, true where the segment is visible. Row 0 shows the whole picture; of pairs,
        row 1 hides it all.
    """
    if sampling == "independent":
        visible = rng.integers(0, 2, size=(num_samples, num_segments), dtype=np.bool_)
        visible[0] = True
        return visible
    half = rng.integers(0, 2, size=((num_samples + 1) // 2, num_segments), dtype=np.bool_)
    half[0] = True
    visible = np.empty((num_samples, num_segments), dtype=np.bool_)
    visible[0::2] = half
    visible[1::2] = ~half[: num_samples // 2]
    return visible


def draw_like_lime(
    state: np.random.RandomState, num_samples: int, num_segments: int
) -> NDArray[np.bool_]:
    """The same from lime's random stream: `(N, K)` bool, row 0 all true."""
    visible = state.randint(0, 2, num_samples * num_segments).astype(np.bool_)
    visible = visible.reshape(num_samples, num_segments)
    visible[0] = True
    return visible


def fudge(
    image: NDArray[np.uint8], segmentation: Segmentation, hide: Hide, *, truncate: bool = False
) -> NDArray[np.uint8]:
    """The picture with everything hidden.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        segmentation: its segments.
        hide: "mean" paints each segment in its mean colour, "blur" blurs away what is as small as
            a segment, and `(r, g, b)` paints that colour.
        truncate: round means down, as lime does, instead of to the nearest.

    Returns:
        `(H, W, 3)` uint8.
    """
    if hide == "mean":
        ids, index = np.unique(segmentation.labels, return_inverse=True)
        flat = index.ravel()
        counts = np.bincount(flat, minlength=ids.size)
        sums = [np.bincount(flat, image[..., c].ravel(), minlength=ids.size) for c in range(3)]
        means = np.stack(sums, axis=1) / counts[:, np.newaxis]
        colours = (means if truncate else np.rint(means)).astype(np.uint8)
        return np.ascontiguousarray(colours[flat].reshape(image.shape))
    if hide == "blur":
        height, width = image.shape[:2]
        sigma = 0.8 * (height * width / segmentation.num_segments) ** 0.5
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    return np.broadcast_to(np.array(hide, dtype=np.uint8), image.shape).copy()


@dataclass(frozen=True, eq=False)
class Perturbation:
    """Turns rows of the design matrix into pictures.

    Segments lie in horizontal runs of pixels, so a row of bits becomes a byte mask by repeating
    each run's byte: 0.01 ms for a 224x224 picture, where indexing pixel by pixel takes 0.3 ms.

    Attributes:
        shape: H, W, 3.
        fudged: `(H*W*3,)` uint8, the hidden picture.
        difference: `(H*W*3,)` uint8, the picture xor the hidden picture.
        run_columns: `(R,)` the column of each run, K where nothing hides it.
        run_lengths: `(R,)` its length in bytes.
    """

    shape: tuple[int, int, int]
    fudged: NDArray[np.uint8]
    difference: NDArray[np.uint8]
    run_columns: NDArray[np.intp]
    run_lengths: NDArray[np.intp]

    def pictures(self, visible: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """One picture per row.

        Args:
            visible: `(B, K)` bool.

        Returns:
            `(B, H, W, 3)` uint8, a new array.
        """
        masks = np.full((visible.shape[0], visible.shape[1] + 1), 255, dtype=np.uint8)
        masks[:, :-1] *= visible
        pixels = np.repeat(masks[:, self.run_columns], self.run_lengths, axis=1)
        np.bitwise_and(pixels, self.difference, out=pixels)
        np.bitwise_xor(pixels, self.fudged, out=pixels)
        return pixels.reshape(-1, *self.shape)


def perturbation(
    image: NDArray[np.uint8], fudged: NDArray[np.uint8], segmentation: Segmentation
) -> Perturbation:
    """Prepare, once per picture, what every sample needs.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        fudged: the same, all hidden.
        segmentation: the segments.
    """
    columns = segmentation.columns.ravel()
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    lengths = np.diff(starts, append=columns.size)
    height, width = image.shape[:2]
    return Perturbation(
        shape=(height, width, 3),
        fudged=fudged.ravel(),
        difference=(image ^ fudged).ravel(),
        run_columns=columns[starts],
        run_lengths=(lengths * 3).astype(np.intp),
    )
