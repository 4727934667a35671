"""How a request wants an image cut, checked field by field.

Knows the parameters of each method and their bounds. Cuts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from limelens.explain import ExplainOptions
from limelens.explain.settings import DEFAULT_NUM_SEGMENTS
from limelens.serve.bundle.explain_defaults import NUMBERED, ExplainDefaults
from limelens.serve.errors import InvalidRequestError
from limelens.serve.explaining.spec import SEGMENTS_LIMIT
from limelens.serve.rpc.requests.values import enum_name, number
from limelens.v1 import explanation_pb2

# The parameters of each method, named as in scikit-image: least and most. The upper bounds keep one
# request from occupying a thread for minutes.
PARAMETERS: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {
    "slic": {"compactness": (1e-6, 1e6), "sigma": (0, 100)},
    "quickshift": {"kernel_size": (0.5, 10), "max_dist": (1e-6, 1e6), "ratio": (0, 1)},
    "felzenszwalb": {"scale": (1e-6, 1e9), "min_size": (1, 1e9), "sigma": (0, 100)},
    "grid": {},
}
ALL_PARAMETERS: Final = frozenset(name for names in PARAMETERS.values() for name in names)


def read_segmentation(
    message: explanation_pb2.Segmentation, usual: ExplainDefaults, *, is_lime: bool
) -> ExplainOptions:
    """How to cut the image.

    Args:
        message: The caller's wish.
        usual: The model's own settings, as far as they fit it.
        is_lime: Whether the defaults are lime's.

    Raises:
        InvalidRequestError: A value is out of its range, or does not fit the method.
    """
    given: Any = enum_name(
        explanation_pb2.SegmentationMethod, message.method, "segmentation.method"
    )
    set_fields = [descriptor.name for descriptor, _ in message.ListFields()]
    if message.segments_png:
        if len(set_fields) > 1:
            others = ", ".join(name for name in set_fields if name != "segments_png")
            raise InvalidRequestError(
                "segmentation.segments_png", f"given together with {others}; expected it alone"
            )
        return {}
    given = given or usual.segmentation
    method = given or ("quickshift" if is_lime else "slic")
    limits = PARAMETERS[method]
    parameters: dict[str, float] = {}
    for name in set_fields:
        if name in ("method", "num_segments"):
            continue
        field = f"segmentation.{name}"
        if name not in limits:
            takes = ", ".join(limits) or "none"
            raise InvalidRequestError(
                field, f"not a parameter of {method}, whose parameters are: {takes}"
            )
        least, most = limits[name]
        parameters[name] = number(field, getattr(message, name), least=least, most=most)
    options = ExplainOptions(segmentation=given, segmentation_options=parameters or None)
    num_segments = message.num_segments
    if method in NUMBERED:
        unset = usual.num_segments or DEFAULT_NUM_SEGMENTS
        if num_segments != 0 and not 2 <= num_segments <= SEGMENTS_LIMIT:
            raise InvalidRequestError(
                "segmentation.num_segments",
                f"{num_segments}; expected 2 to {SEGMENTS_LIMIT}, or 0 for {unset}",
            )
        options["num_segments"] = num_segments or unset
    elif num_segments:
        raise InvalidRequestError(
            "segmentation.num_segments", f"{method} finds its own number; expected 0"
        )
    return options
