"""The interpretable representation: an image cut into segments (the paper's section 3.1).

Knows pixels, segment ids and scikit-image. Does not know the model, nor how segments are hidden.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.explain.errors import InvalidArgumentError, MissingPackageError

Method = Literal["slic", "quickshift", "felzenszwalb", "grid"]

UNSEEN = 65535
"""The id of pixels that the model never saw: never hidden, never weighed, drawn dimmed."""

MAX_SEGMENTS = 4096
"""More segments than this would need more memory and samples than an explanation is worth."""

_DEFAULT_NUM_SEGMENTS = 40
_WORKING_PIXELS = 320 * 320  # larger images are cut at this size: same K, a tenth of the time
_MIN_SIDE = 8  # below it the clustering methods have nothing to cluster
_MIN_PIXELS = 16  # per segment, likewise
_NEAR = 0.25  # how far, as a logarithm, the number of segments may be off target
_SLIC_ITERATIONS = 8  # with ten the same faces' masks are found, with five fewer
_SLIC_MAX_SIZE_FACTOR = 3  # slic's own default
_LIME_QUICKSHIFT: Mapping[str, Any] = {"kernel_size": 4, "max_dist": 200, "ratio": 0.2}


@dataclass(frozen=True, eq=False)
class Segmentation:
    """An image's segments.

    Attributes:
        labels: `(H, W)` int32, each pixel's segment id as the caller knows it.
        ids: `(K,)` int32, the id that column j of the design matrix stands for.
        columns: `(H, W)` intp, each pixel's column, 0 to K; K stands for pixels that no column
            hides.
        warnings: what the caller should know about how the image was cut.
    """

    labels: NDArray[np.int32]
    ids: NDArray[np.int32]
    columns: NDArray[np.intp]
    warnings: tuple[str, ...] = ()

    @property
    def num_segments(self) -> int:
        """K, the number of segments that can be hidden."""
        return self.ids.size


def cut(
    image: NDArray[np.uint8],
    method: Method,
    *,
    num_segments: int | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 42,
) -> Segmentation:
    """Cut an image into segments whose number depends little on its resolution.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        method: the algorithm.
        num_segments: how many to aim for (slic and grid only); 40 unless given.
        options: further arguments of the scikit-image function of that name.
        seed: breaks quickshift's ties.

    Returns:
        Segments with ids 0 to K-1, every one of which can be hidden. Images of few
        pixels, and images that come out as a single segment, are cut into a grid instead, and
        `warnings` says so.

    Raises:
        InvalidArgumentError: unknown method or option, or too many segments.
    """
    _check_method(method, num_segments)
    height, width = image.shape[:2]
    target = _DEFAULT_NUM_SEGMENTS if num_segments is None else num_segments
    if method == "grid":
        _check_options(method, options, ())
        return _dense(_grid(height, width, target))
    if min(height, width) < _MIN_SIDE or height * width < _MIN_PIXELS * target:
        notice = f"The image is {height}x{width} pixels, too small for {method}: cut into a grid."
        return _dense(_grid(height, width, target), notice)
    small = _at_working_size(image)
    if method == "slic":
        found = _slic(small, target, dict(options or {}))
    elif method == "quickshift":
        defaults = {**_LIME_QUICKSHIFT, "rng": seed % 2**31}
        found = _run(method, small, {**defaults, **(options or {})})
    else:
        least = max(1, small.shape[0] * small.shape[1] // (4 * _DEFAULT_NUM_SEGMENTS))
        defaults = {"scale": 150, "sigma": 0.8, "min_size": least}
        found = _run(method, small, {**defaults, **(options or {})})
    if found.min() == found.max():
        notice = f"{method} found a single segment: the image was cut into a grid instead."
        return _dense(_grid(height, width, target), notice)
    rows = np.arange(height) * found.shape[0] // height
    cols = np.arange(width) * found.shape[1] // width
    numbers = distinct(found)[1]
    return _dense(numbers[rows[:, np.newaxis], cols])


def cut_like_lime(
    image: NDArray[np.uint8],
    method: Method,
    *,
    num_segments: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Segmentation:
    """Cut an image as `lime.wrappers.scikit_image.SegmentationAlgorithm` does.

    No working size, no fallback, scikit-image's own defaults where `options` are given; see
    `as_lime_reads` for what becomes of the ids.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        method: the algorithm.
        num_segments: slic's `n_segments`, or the grid's.
        options: arguments of the scikit-image function; None for quickshift means lime's
            default.

    Returns:
        Segments as lime sees them.

    Raises:
        InvalidArgumentError: unknown method or option.
    """
    _check_method(method, num_segments)
    if method == "grid":
        _check_options(method, options, ())
        target = _DEFAULT_NUM_SEGMENTS if num_segments is None else num_segments
        return as_lime_reads(_grid(image.shape[0], image.shape[1], target))
    arguments = dict(options or {})
    if method == "quickshift" and options is None:
        arguments = dict(_LIME_QUICKSHIFT)
    if method == "slic" and num_segments is not None:
        arguments = {"n_segments": num_segments, **arguments}
    return as_lime_reads(_run(method, image, arguments))


def given(segments: Any, height: int, width: int) -> Segmentation:
    """The caller's own segments, under the caller's own ids.

    Args:
        segments: `(H, W)` integers, any ids; `UNSEEN` (65535) marks pixels that are never hidden.
        height: H of the image.
        width: W of the image.

    Returns:
        The same ids, with columns counted from 0 in ascending order of id.

    Raises:
        InvalidArgumentError: another shape or dtype, no segment, or too many.
    """
    found = _dense(checked(segments, height, width))
    _check_count(found.num_segments)
    return found


def given_like_lime(segments: Any, height: int, width: int) -> Segmentation:
    """The caller's own segments, read as lime reads them: see `as_lime_reads`."""
    return as_lime_reads(checked(segments, height, width))


def as_lime_reads(labels: NDArray[np.int64]) -> Segmentation:
    """Segments under lime's assumption that ids run from 0 to K-1.

    lime counts K distinct ids and then hides ids 0 to K-1 literally: an id beyond (slic's last,
    with `start_label=1`) is never hidden, and a column whose id does not occur hides nothing.
    """
    num_segments = np.unique(labels).size
    _check_count(num_segments)
    columns = np.where((labels >= 0) & (labels < num_segments), labels, num_segments)
    return Segmentation(
        labels=labels.astype(np.int32),
        ids=np.arange(num_segments, dtype=np.int32),
        columns=columns.astype(np.intp),
    )


def known(labels: NDArray[np.int32], ids: NDArray[np.int32]) -> Segmentation:
    """Segments of an explanation that was made before.

    Args:
        labels: `(H, W)` segment ids.
        ids: `(K,)` ascending, the id of each column; pixels of other ids are never hidden.
    """
    place = np.minimum(np.searchsorted(ids, labels), ids.size - 1)
    columns = np.where(ids[place] == labels, place, ids.size)
    return Segmentation(labels=labels, ids=ids, columns=columns.astype(np.intp))


def distinct(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The distinct ids, ascending, and for each pixel the place of its id among them.

    As `np.unique(labels, return_inverse=True)`, without sorting where ids are small.

    Args:
        labels: `(H, W)` integers.

    Returns:
        `(K,)` ids and `(H, W)` places, 0 to K-1.
    """
    if labels.size == 0 or labels.min() < 0 or labels.max() > UNSEEN:
        ids, places = np.unique(labels, return_inverse=True)
        return ids, places.reshape(labels.shape)
    is_used = np.bincount(labels.ravel()) > 0
    ids = np.flatnonzero(is_used).astype(labels.dtype)
    places = np.cumsum(is_used) - 1
    return ids, places[labels].astype(np.intp)


def _dense(labels: NDArray[np.int64], *warnings: str) -> Segmentation:
    ids, columns = distinct(labels)
    if UNSEEN in ids:
        place = int(np.searchsorted(ids, UNSEEN))
        last = ids.size - 1
        columns = np.where(columns == place, last, columns - (columns > place))
        ids = np.delete(ids, place)
    if ids.size == 0:
        raise InvalidArgumentError(
            "segments", f"segments holds only {UNSEEN} (never seen); expected at least one segment"
        )
    return Segmentation(
        labels=labels.astype(np.int32),
        ids=ids.astype(np.int32),
        columns=columns.astype(np.intp),
        warnings=warnings,
    )


def checked(segments: Any, height: int, width: int) -> NDArray[np.int64]:
    """A caller's `(H, W)` segment ids as int64, or an error that says what is wrong with them."""
    labels = np.asarray(segments)
    if labels.shape != (height, width):
        raise InvalidArgumentError(
            "segments",
            f"segments has shape {labels.shape}; the image is ({height}, {width}): give one "
            f"integer id per pixel",
        )
    if labels.dtype.kind not in "iu":
        raise InvalidArgumentError(
            "segments", f"segments is {labels.dtype}; expected integers: use .astype(np.int32)"
        )
    limits = np.iinfo(np.int32)
    if int(labels.min()) < limits.min or int(labels.max()) > limits.max:
        raise InvalidArgumentError(
            "segments", "segments holds ids that do not fit 32 bits: renumber them"
        )
    return labels.astype(np.int64)


def _check_count(num_segments: int) -> None:
    if num_segments > MAX_SEGMENTS:
        raise InvalidArgumentError(
            "segments",
            f"The image has {num_segments} segments; at most {MAX_SEGMENTS} can be explained: "
            f"merge some, ask for fewer, or shrink the image",
        )


def _check_method(method: str, num_segments: int | None) -> None:
    methods = get_args(Method)
    if method not in methods:
        raise InvalidArgumentError(
            "segmentation", f"segmentation is {method!r}; expected one of {', '.join(methods)}"
        )
    if num_segments is None:
        return
    if method not in ("slic", "grid"):
        raise InvalidArgumentError(
            "num_segments",
            f"num_segments steers slic and grid; {method} finds its own number: use "
            f"segmentation_options",
        )
    if not 1 <= num_segments <= MAX_SEGMENTS:
        raise InvalidArgumentError(
            "num_segments", f"num_segments is {num_segments}; expected 1 to {MAX_SEGMENTS}"
        )


def _check_options(
    method: str, options: Mapping[str, Any] | None, known: tuple[str, ...] | list[str]
) -> None:
    unknown = sorted(set(options or {}) - set(known))
    if unknown:
        raise InvalidArgumentError(
            "segmentation_options",
            f"segmentation_options has {', '.join(map(repr, unknown))}, which {method} does not "
            f"take; it takes {', '.join(known) or 'none'}",
        )


def _run(method: Method, image: NDArray[np.uint8], arguments: dict[str, Any]) -> NDArray[np.int64]:
    function = _function(method)
    known = [name for name in inspect.signature(function).parameters if name != "image"]
    _check_options(method, arguments, known)
    try:
        if method == "quickshift" and 0 < arguments.get("kernel_size", 1) < 1:
            labels = _narrow_quickshift(image, **arguments)
        else:
            labels = np.asarray(function(image, **arguments))
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgumentError(
            "segmentation_options", f"{method} refused its parameters: {error}"
        ) from error
    return labels.astype(np.int64)


def _narrow_quickshift(
    image: NDArray[np.uint8],
    *,
    kernel_size: float,
    max_dist: float = 10.0,
    ratio: float = 1.0,
    sigma: float = 0.0,
    rng: int = 42,
) -> NDArray[np.int64]:
    """Quickshift with a kernel of less than a pixel.

    scikit-image's `quickshift` refuses it; the algorithm behind takes any width, and is called
    as `quickshift` calls it.
    """
    from skimage import filters
    from skimage.color import rgb2lab
    from skimage.segmentation._quickshift_cy import _quickshift_cython

    gaussian: Any = filters.gaussian
    lab = gaussian(rgb2lab(image), sigma=(sigma, sigma, 0), mode="reflect", channel_axis=-1)
    return np.asarray(
        _quickshift_cython(
            np.ascontiguousarray(lab * ratio),
            kernel_size=kernel_size,
            max_dist=max_dist,
            return_tree=False,
            rng=rng,
        )
    )


def _slic(image: NDArray[np.uint8], target: int, options: dict[str, Any]) -> NDArray[np.int64]:
    """The slic result whose number of segments comes near the target.

    slic starts from a grid of `n_segments`, cuts what is not connected into pieces and melts the
    small pieces: how many remain depends on how small is small.
    """
    arguments = {
        "n_segments": target,
        "min_size_factor": 0.25,
        "start_label": 0,
        "max_num_iter": _SLIC_ITERATIONS,
        **options,
    }
    if "min_size_factor" in options:
        return _run("slic", image, arguments)
    melted = _melting(image, arguments)
    found = melted(0.25)
    best = _off(found, target)
    for factor in (0.5, 0.8) if found.max() >= target else (0.1,):
        if best <= _NEAR:
            break
        other = melted(factor)
        if _off(other, target) < best:
            found, best = other, _off(other, target)
    return found


def _melting(
    image: NDArray[np.uint8], arguments: dict[str, Any]
) -> Callable[[float], NDArray[np.int64]]:
    """What slic gives for one `min_size_factor` after the other, clustering pixels only once.

    scikit-image has the second half of slic, which takes a twentieth of the time, under a private
    name; where that is gone, slic runs again as a whole.
    """
    plain = {"n_segments", "min_size_factor", "start_label", "max_num_iter"}
    try:
        from skimage.segmentation._slic import _enforce_label_connectivity_cython as connected
        from skimage.util import regular_grid
    except ImportError:
        connected = None
    if connected is None or not plain | {"compactness", "sigma"} >= set(arguments):
        return lambda factor: _run("slic", image, {**arguments, "min_size_factor": factor})
    clusters = _run("slic", image, {**arguments, "enforce_connectivity": False})[np.newaxis]
    grid = regular_grid(clusters.shape, arguments["n_segments"])  # type: ignore[no-untyped-call]
    starts = [len(range(*part.indices(n))) for part, n in zip(grid, clusters.shape, strict=True)]
    size = clusters.size / math.prod(starts)

    def melted(factor: float) -> NDArray[np.int64]:
        found = connected(
            clusters.astype(np.intp), int(factor * size), int(_SLIC_MAX_SIZE_FACTOR * size), 0
        )
        melt: NDArray[np.int64] = np.asarray(found)[0].astype(np.int64)
        return melt

    return melted


def _off(labels: NDArray[np.int64], target: int) -> float:
    return abs(float(np.log(distinct(labels)[0].size / target)))


def _function(method: Method) -> Callable[..., Any]:
    try:
        from skimage import segmentation
    except ImportError as error:
        raise MissingPackageError(
            f"{method} needs scikit-image: pip install 'limelens[explain]', or use "
            f"segmentation='grid' or segments="
        ) from error
    function: Callable[..., Any] = getattr(segmentation, method)
    return function


def _at_working_size(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if height * width <= _WORKING_PIXELS:
        return image
    scale = (_WORKING_PIXELS / (height * width)) ** 0.5
    size = (max(_MIN_SIDE, round(width * scale)), max(_MIN_SIDE, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _grid(height: int, width: int, target: int) -> NDArray[np.int64]:
    """About `target` cells, as square as the image allows, none of them empty."""
    rows = min(height, target, max(1, round((target * height / width) ** 0.5)))
    cols = min(width, max(1, round(target / rows)))
    row = np.arange(height) * rows // height
    col = np.arange(width) * cols // width
    return np.asarray(row[:, np.newaxis] * cols + col, dtype=np.int64)
