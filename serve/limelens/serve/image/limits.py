"""Names of files and folders of images. It knows nothing of what is in them."""

from __future__ import annotations

from typing import Final

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif"})
"""Of files in the formats that are read."""
SPLIT_NAMES: Final = {"train": "train", "val": "val", "validation": "val", "test": "test"}
"""Folders above label folders, and what they are called here."""
