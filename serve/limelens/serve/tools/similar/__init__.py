"""Similar pictures: an index over feature vectors, made from a folder and searched by pictures.

Vectors come from whoever embeds (`Client.embed`); nearest neighbours are faiss' business, which
is loaded when an index is built, read or searched (extra `similar`).
"""

from limelens.serve.tools.similar.index import (
    IndexRefusedError,
    Made,
    Neighbour,
    Pictured,
    SimilarIndex,
    build_index,
    load_index,
    save_index,
)
from limelens.serve.tools.similar.indexing import (
    Indexing,
    Skipped,
    embed_files,
    find_pictures,
    index_folder,
)

__all__ = [
    "IndexRefusedError",
    "Indexing",
    "Made",
    "Neighbour",
    "Pictured",
    "SimilarIndex",
    "Skipped",
    "build_index",
    "embed_files",
    "find_pictures",
    "index_folder",
    "load_index",
    "save_index",
]
