"""Similar images: an index over feature vectors, made from a folder and searched by images.

Vectors come from whoever embeds (`Client.embed`); nearest neighbours are faiss' business, which
is loaded when an index is built, read or searched (extra `similar`).
"""

from limelens.serve.tools.similar.index import (
    IndexedImage,
    IndexRefusedError,
    Made,
    Neighbour,
    SimilarIndex,
    build_index,
    load_index,
    save_index,
)
from limelens.serve.tools.similar.indexing import (
    Indexing,
    Skipped,
    embed_files,
    find_images,
    index_folder,
)

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
