"""Similar images: an index of feature vectors, made from a folder and searched by images.

Vectors come from `Client.embed`; faiss (extra `similar`) finds the nearest and is loaded only when
an index is built, read or searched.
"""

from limelens.serve.tools.similar.embedding import Skipped, embed_files
from limelens.serve.tools.similar.index import (
    IndexedImage,
    IndexRefusedError,
    Made,
    Neighbour,
    SimilarIndex,
    build_index,
)
from limelens.serve.tools.similar.index_file import load_index, save_index
from limelens.serve.tools.similar.indexing import Indexing, find_images, index_folder

__all__ = [
    "IndexRefusedError",
    "IndexedImage",
    "Indexing",
    "Made",
    "Neighbour",
    "SimilarIndex",
    "Skipped",
    "build_index",
    "embed_files",
    "find_images",
    "index_folder",
    "load_index",
    "save_index",
]
