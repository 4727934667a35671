"""Draws portraits, masks and scenes by code.

The public names of this package: other packages import from here, not from its modules.
"""

from limelens.train.synthetic.face import Face
from limelens.train.synthetic.face_masks import MASK_STYLES, MaskStyle, draw_mask
from limelens.train.synthetic.portraits import LABELS, render_portrait, write_dataset
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
