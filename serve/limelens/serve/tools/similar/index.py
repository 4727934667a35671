"""An index of feature vectors: built, and searched by cosine similarity.

It knows vectors and faiss, and nothing of files or of how images become vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.session import unit_length
from limelens.serve.errors import InvalidRequestError, LimelensError, MissingExtraError
from limelens.serve.tools.similar.space import FeatureSpace

EXACT_UP_TO: Final = 50_000
"""More images are searched by a graph (HNSW), which may sometimes miss a neighbour. Comparing with
all of 50,000 vectors of 576 numbers takes 5 ms."""
_NEIGHBOURS_IN_GRAPH: Final = 32
_EF_CONSTRUCTION: Final = 80
_EF_SEARCH: Final = 128
_DIGEST_SHOWN: Final = 12


class IndexRefusedError(LimelensError):
    """A file is damaged, not an index, or from another model; the message says what to do."""


@dataclass(frozen=True, slots=True)
class IndexedImage:
    """An image relative to the folder that was indexed, and its label's folder or nothing."""

    path: str
    label: str


@dataclass(frozen=True)
class Made:
    """The model and the data that an index was made from.

    Args:
        model: Its name.
        version: Its version; 0 if its file was not in a model repository.
        digest: The digest of the model; see `EmbedResponse.model_digest`.
        embedding_size: Length of its vectors.
        data: The folder that was indexed, as an absolute path.
    """

    model: str
    version: int
    digest: str
    embedding_size: int
    data: str


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An image that is similar to a query, and the cosine of the angle between their vectors.

    The cosine, in the space of the index, is from -1 to 1; 1 is the same image.
    """

    path: str
    label: str
    similarity: float


@dataclass(frozen=True, eq=False)
class SimilarIndex:
    """Searchable images in the order of their vectors; see `build_index` and `load_index`.

    The vectors, in `space` and of length 1, are in an inner-product index of faiss. `confidences`,
    `(N,)` float32, are the highest probabilities that the model gave each image, and `predicted`
    their labels; None if the index has none. `lengths`, `(N,)` float32, are those that the vectors
    had in the space.
    """

    made: Made
    images: tuple[IndexedImage, ...]
    faiss_index: Any = field(repr=False)
    confidences: NDArray[np.float32] | None = field(default=None, repr=False)
    space: FeatureSpace = field(default_factory=FeatureSpace, repr=False)
    lengths: NDArray[np.float32] | None = field(default=None, repr=False)
    predicted: tuple[str, ...] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_exact(self) -> bool:
        """Whether a search compares with every image and so misses none."""
        return isinstance(self.faiss_index, load_faiss().IndexFlat)

    def label_counts(self) -> dict[str, int]:
        """How many images each label has, by label; unlabelled ones are left out."""
        return dict(sorted(Counter(one.label for one in self.images if one.label).items()))

    def check_model(self, model: str, version: int, digest: str) -> None:
        """Refuses vectors of another model, whose numbers mean something else.

        Raises:
            IndexRefusedError: It is another model than the index was made with.
        """
        if digest != self.made.digest:
            raise IndexRefusedError(
                f"the index was made with {_named(self.made.model, self.made.version)} "
                f"(digest {self.made.digest[:_DIGEST_SHOWN]}), and {_named(model, version)} "
                f"(digest {digest[:_DIGEST_SHOWN]}) made the query; use the model of the index, or "
                "make it again with limelens index"
            )

    def search(self, vectors: NDArray[np.float32], k: int = 5) -> list[tuple[Neighbour, ...]]:
        """The images that are most similar to the queries.

        Args:
            vectors: `(N, D)` feature vectors of the index's model, of any length over 0.
            k: Neighbours of each, at least 1; a smaller index gives all its images.

        Returns:
            For each vector its neighbours, most similar first.

        Raises:
            InvalidRequestError: `k` is below 1, or the vectors have another size.
        """
        similarities, rows = self.faiss_index.search(
            self.space.placed(self._checked(vectors, k)), min(k, len(self.images))
        )
        return [
            tuple(
                Neighbour(self.images[row].path, self.images[row].label, _cosine(similarity))
                for similarity, row in zip(some_similarities, some_rows, strict=True)
                if row >= 0  # a graph may find fewer than requested
            )
            for some_similarities, some_rows in zip(
                similarities.tolist(), rows.tolist(), strict=True
            )
        ]

    def distances(self, vectors: NDArray[np.float32], k: int) -> NDArray[np.float64]:
        """How far queries are from the index: the mean cosine distance to their `k` nearest images.

        Between vectors as the model gives them: around their mean every direction is as far.

        Args:
            vectors: As for `search`.
            k: As for `search`.

        Returns:
            `(N,)` distances, 0 to 2.

        Raises:
            InvalidRequestError: As `search`.
        """
        similarities, rows = self._given.search(
            np.ascontiguousarray(unit_length(self._checked(vectors, k))), min(k, len(self.images))
        )
        return _mean_distances(similarities, rows)

    def own_distances(self, k: int, taken: NDArray[np.int64]) -> NDArray[np.float64]:
        """`distances` of indexed images, each from the others: what is usual.

        Args:
            k: As for `search`.
            taken: `(M,)` places of the images in the index.

        Returns:
            `(M,)` distances, 0 to 2.
        """
        count = len(self.images)
        own = np.stack([self._given.reconstruct(int(row)) for row in taken])
        similarities, rows = self._given.search(own, min(k + 1, count))
        # An image is its own nearest, but among copies another may come first.
        is_itself = rows == taken[:, np.newaxis]
        is_itself[~is_itself.any(axis=1), -1] = True
        shape = len(taken), rows.shape[1] - 1
        return _mean_distances(
            similarities[~is_itself].reshape(shape), rows[~is_itself].reshape(shape)
        )

    @cached_property
    def _given(self) -> Any:
        """An inner-product index of the vectors as the model gives them, with length 1."""
        if self.lengths is None:
            return self.faiss_index
        placed = self.faiss_index.reconstruct_n(0, len(self.images))
        index = load_faiss().IndexFlatIP(self.made.embedding_size)
        index.add(self.space.given(placed * self.lengths[:, np.newaxis]))
        return index

    def _checked(self, vectors: NDArray[np.float32], k: int) -> NDArray[np.float32]:
        if k < 1:
            raise InvalidRequestError("k", f"{k}; expected at least 1")
        if vectors.ndim != 2 or vectors.shape[1] != self.made.embedding_size:
            raise InvalidRequestError(
                "vectors",
                f"shape {vectors.shape}; the index expects (N, {self.made.embedding_size})",
            )
        return vectors


def build_index(
    vectors: NDArray[np.float32],
    images: Sequence[IndexedImage],
    made: Made,
    *,
    exact: bool | None = None,
    confidences: NDArray[np.float32] | None = None,
    predicted: Sequence[str] | None = None,
    space: FeatureSpace | None = None,
) -> SimilarIndex:
    """An index over some vectors.

    Args:
        vectors: `(N, D)` feature vectors, finite, at least one.
        images: Their images, in the same order.
        made: Their model and data.
        exact: Whether a search compares with every image; None does so up to `EXACT_UP_TO`.
        confidences: `(N,)`, see `SimilarIndex`.
        predicted: N labels, see `SimilarIndex`.
        space: Where vectors are compared; None fits one to them.

    Raises:
        MissingExtraError: faiss is not installed.
        ValueError: The numbers of vectors, images and elements do not fit each other.
    """
    if vectors.shape != (len(images), made.embedding_size) or not images:
        raise ValueError(
            f"vectors of shape {vectors.shape} for {len(images)} images and an embedding of "
            f"{made.embedding_size}"
        )
    faiss = load_faiss()
    if exact is None:
        exact = len(images) <= EXACT_UP_TO
    if exact:
        index = faiss.IndexFlatIP(made.embedding_size)
    else:
        index = faiss.IndexHNSWFlat(
            made.embedding_size, _NEIGHBOURS_IN_GRAPH, faiss.METRIC_INNER_PRODUCT
        )
        index.hnsw.efConstruction = _EF_CONSTRUCTION
        index.hnsw.efSearch = _EF_SEARCH
    space = FeatureSpace.fitted(vectors) if space is None else space
    moved = space.moved(vectors)
    index.add(np.ascontiguousarray(unit_length(moved)))
    lengths = None if space.mean is None else np.linalg.norm(moved, axis=1).astype(np.float32)
    labels = None if predicted is None else tuple(predicted)
    return SimilarIndex(made, tuple(images), index, confidences, space, lengths, labels)


def _mean_distances(
    similarities: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The mean cosine distance of each row of similarities; those of row -1 are left out."""
    is_found = rows >= 0
    distances = np.where(is_found, np.clip(1 - similarities.astype(np.float64), 0, 2), 0)
    means: NDArray[np.float64] = distances.sum(axis=1) / np.maximum(1, is_found.sum(axis=1))
    return means


def _cosine(similarity: float) -> float:
    """Clips rounding errors beyond -1 and 1."""
    return max(-1.0, min(1.0, similarity))


def _named(model: str, version: int) -> str:
    return f"{model} version {version}" if version else model


def load_faiss() -> Any:
    """The module faiss.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError(
            "faiss, which searches similar images, is not installed; "
            "pip install 'limelens[similar]'"
        ) from error
    return faiss
