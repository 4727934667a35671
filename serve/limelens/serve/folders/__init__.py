"""Finds the images in folders, and the meaning of the folders' names.

Every command that takes a folder finds its files here, so that all of them see the same images.
Knows names of files and folders; reads no image.
"""

from limelens.serve.folders.names import label_name, look_alikes, split_name
from limelens.serve.folders.walk import (
    Found,
    Skipped,
    could_be_image,
    find_images,
    names_by_folder,
    subfolders,
    walk,
)

__all__ = [
    "Found",
    "Skipped",
    "could_be_image",
    "find_images",
    "label_name",
    "look_alikes",
    "names_by_folder",
    "split_name",
    "subfolders",
    "walk",
]
