"""Draws portraits, masks and scenes by code.

The public names of this package: other packages import from here, not from its modules.
"""

from limelens.train.synthetic.backgrounds import random_background
from limelens.train.synthetic.face import Face
from limelens.train.synthetic.face_masks import MASK_STYLES, MaskStyle, draw_mask, random_style
from limelens.train.synthetic.portraits import (
    LABELS,
    Portrait,
    add_person,
    render_portrait,
    write_dataset,
)
from limelens.train.synthetic.scenes import Counts, add_scenes

__all__ = [
    "LABELS",
    "MASK_STYLES",
    "Counts",
    "Face",
    "MaskStyle",
    "Portrait",
    "add_person",
    "add_scenes",
    "draw_mask",
    "random_background",
    "random_style",
    "render_portrait",
    "write_dataset",
]
