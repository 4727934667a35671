"""Folders of images: which files are found in them, and what the folders' names mean.

Every command that takes a folder finds its files here, so that all of them see the same images.
It knows names of files and folders and reads no image.
"""

from limelens.serve.folders.labels import label_name, look_alikes
from limelens.serve.folders.splits import SPLITS, split_name
from limelens.serve.folders.walk import (
    Found,
    LeftOut,
    could_be_image,
    find_images,
    subfolders,
    walk,
)

__all__ = [
    "SPLITS",
    "Found",
    "LeftOut",
    "could_be_image",
    "find_images",
    "label_name",
    "look_alikes",
    "split_name",
    "subfolders",
    "walk",
]
