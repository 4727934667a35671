"""Draws portraits, masks and scenes by code.

The door of this room: other rooms import from here, not from its modules.
"""

from typing import TYPE_CHECKING, Any

from limelens.train.synthetic.face import Face
from limelens.train.synthetic.masks import MASK_STYLES, MaskStyle, draw_mask
from limelens.train.synthetic.portraits import LABELS, render_portrait, write_dataset

if TYPE_CHECKING:
    from limelens.train.synthetic.scenes import Counts, add_scenes

__all__ = [
    "LABELS",
    "MASK_STYLES",
    "Counts",
    "Face",
    "MaskStyle",
    "add_scenes",
    "draw_mask",
    "render_portrait",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: scenes read data sets, while drawing needs only numpy and Pillow.
    if name not in ("Counts", "add_scenes"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from limelens.train.synthetic import scenes

    return getattr(scenes, name)
