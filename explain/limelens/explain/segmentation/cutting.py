"""The interpretable representation: an image cut into segments (section 3.1 of the paper).

Knows pixels and scikit-image. Does not know the model, nor how segments are hidden.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.explain.errors import InvalidArgumentError, MissingPackageError
from limelens.explain.segmentation.segments import (
    Segmentation,
    as_lime_reads,
    checked,
    distinct,
    numbered,
    stretched,
)
from limelens.explain.settings import (
    DEFAULT_NUM_SEGMENTS,
    MAX_SEGMENTS,
    SegmentationMethod,
    Settings,
)
from limelens.explain.warning import ExplanationWarning, WarningKind

_WORKING_PIXELS = 320 * 320  # larger images are cut at this size: same K, a tenth of the time
_MIN_SIDE = 8  # below it the clustering methods have nothing to cluster
_MIN_PIXELS = 16  # per segment, likewise
_NEAR = 0.25  # how far, as a logarithm, the number of segments may be off target
_SLIC_ITERATIONS = 8  # with ten the same faces' masks are found, with five fewer
_SLIC_MAX_SIZE_FACTOR = 3  # slic's own default
_LIME_QUICKSHIFT: Mapping[str, Any] = {"kernel_size": 4, "max_dist": 200, "ratio": 0.2}


def segment(image: NDArray[np.uint8], settings: Settings, seed: int = 42) -> Segmentation:
    """The segments of an image: the caller's own, or cut as the settings say.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        settings: How to cut it.
        seed: Breaks quickshift's ties.

    Raises:
        InvalidArgumentError: An unknown option, unusable segments, or too many of them.
        MissingPackageError: Scikit-image is not installed.
    """
    if settings.segments is not None:
        own = checked(settings.segments, *image.shape[:2])
        found = as_lime_reads(own) if settings.like_lime else numbered(own)
    else:
        found = (
            _cut_like_lime(image, settings) if settings.like_lime else cut(image, settings, seed)
        )
    if found.num_segments > settings.max_segments:
        raise InvalidArgumentError(
            "max_segments" if settings.segments is None else "segments",
            f"The image has {found.num_segments} segments; at most {settings.max_segments} are "
            f"explained: use fewer",
        )
    return found


def cut(image: NDArray[np.uint8], settings: Settings, seed: int = 42) -> Segmentation:
    """Cut an image into segments whose number depends little on its resolution.

    Takes what `segment` takes. Images of few pixels, and images that come out as a single segment,
    are cut into a grid instead, and a warning reports it.

    Returns:
        Segments with ids 0 to K-1, all of which can be hidden.
    """
    method = settings.segmentation or "slic"
    target = _target(method, settings)
    options = dict(settings.segmentation_options or {})
    height, width = image.shape[:2]
    if method == "grid":
        _check_options(method, options, ())
        return numbered(_grid(height, width, target))

    def grid(kind: WarningKind) -> Segmentation:
        numbers = {"height": height, "width": width, "segmentation": method}
        return numbered(_grid(height, width, target), ExplanationWarning(kind, numbers=numbers))

    if min(height, width) < _MIN_SIDE or height * width < _MIN_PIXELS * target:
        return grid(WarningKind.TOO_SMALL)
    small = _at_working_size(image)
    if method == "slic":
        found = _slic(small, target, options)
    elif method == "quickshift":
        found = _run(method, small, {**_LIME_QUICKSHIFT, "rng": seed % 2**31, **options})
    else:
        least = max(1, small.shape[0] * small.shape[1] // (4 * DEFAULT_NUM_SEGMENTS))
        found = _run(method, small, {"scale": 150, "sigma": 0.8, "min_size": least, **options})
    if found.min() == found.max():
        return grid(WarningKind.NOT_CUT)
    return numbered(stretched(distinct(found)[1], height, width))


def _cut_like_lime(image: NDArray[np.uint8], settings: Settings) -> Segmentation:
    """Cut an image as `lime.wrappers.scikit_image.SegmentationAlgorithm` does.

    No working size, no fallback, and scikit-image's own defaults where options are given.
    """
    method = settings.segmentation or "quickshift"
    target = _target(method, settings)
    options = settings.segmentation_options
    if method == "grid":
        _check_options(method, options or {}, ())
        return as_lime_reads(_grid(image.shape[0], image.shape[1], target))
    if method == "quickshift" and options is None:
        options = _LIME_QUICKSHIFT
    if method == "slic" and settings.num_segments is not None:
        options = {"n_segments": target, **(options or {})}
    return as_lime_reads(_run(method, image, dict(options or {})))


def _target(method: SegmentationMethod, settings: Settings) -> int:
    """How many segments to aim for."""
    target = settings.num_segments
    if target is None:
        return DEFAULT_NUM_SEGMENTS
    if method not in ("slic", "grid"):
        raise InvalidArgumentError(
            "num_segments",
            f"num_segments steers slic and grid; {method} finds its own number: use "
            f"segmentation_options",
        )
    if target > MAX_SEGMENTS:
        raise InvalidArgumentError(
            "num_segments", f"num_segments is {target}; expected 1 to {MAX_SEGMENTS}"
        )
    return target


def _check_options(
    method: str, options: Mapping[str, Any], known: tuple[str, ...] | list[str]
) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InvalidArgumentError(
            "segmentation_options",
            f"segmentation_options has {', '.join(map(repr, unknown))}, which {method} does not "
            f"take; it takes {', '.join(known) or 'none'}",
        )


def _run(
    method: SegmentationMethod, image: NDArray[np.uint8], arguments: dict[str, Any]
) -> NDArray[np.int64]:
    try:
        from skimage import segmentation
    except ImportError as error:
        raise MissingPackageError(
            f"{method} needs scikit-image: pip install 'limelens[explain]', or use "
            f"segmentation='grid' or segments="
        ) from error
    function = getattr(segmentation, method)
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
    """Quickshift with a kernel of less than a pixel, which `skimage` refuses.

    The algorithm behind it takes any width, and is called as `quickshift` calls it.
    """
    from skimage import filters
    from skimage.color import rgb2lab
    from skimage.segmentation._quickshift_cy import _quickshift_cython

    gaussian: Any = filters.gaussian
    lab = gaussian(rgb2lab(image), sigma=(sigma, sigma, 0), mode="reflect", channel_axis=-1)
    pixels = np.ascontiguousarray(lab * ratio)
    how = {"kernel_size": kernel_size, "max_dist": max_dist, "return_tree": False, "rng": rng}
    return np.asarray(_quickshift_cython(pixels, **how))


def _slic(image: NDArray[np.uint8], target: int, options: dict[str, Any]) -> NDArray[np.int64]:
    """The slic result whose number of segments comes near the target.

    slic starts from a grid of `n_segments`, splits what is not connected and melts small pieces:
    how many remain depends on the size below which a piece is small.
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
    melted = melting(image, arguments)
    found = melted(0.25)
    best = _off(found, target)
    for factor in (0.5, 0.8) if found.max() >= target else (0.1,):
        if best <= _NEAR:
            break
        other = melted(factor)
        if _off(other, target) < best:
            found, best = other, _off(other, target)
    return found


def melting(
    image: NDArray[np.uint8], arguments: dict[str, Any]
) -> Callable[[float], NDArray[np.int64]]:
    """The result of slic as a function of `min_size_factor`, clustering pixels only once.

    scikit-image has the second half of slic, which takes a twentieth of the time, under a private
    name; if that is missing, slic runs again as a whole.
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
        return np.asarray(np.asarray(found)[0].astype(np.int64))

    return melted


def _off(labels: NDArray[np.int64], target: int) -> float:
    return abs(float(np.log(distinct(labels)[0].size / target)))


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
