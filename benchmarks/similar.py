"""Measures whether a model's embedding finds images of the same label, and the cost of a search.

It searches the images of train for each image of val. precision@5 is the share of the five nearest
neighbours that have its label; macro is the mean over labels, micro over images. The table also has
the result with vectors as the model gives them, neither centred nor whitened, and that of chance:
the label's share of train. Searches are timed one image at a time, alternating with brute force in
numpy in the same run: on a shared machine ratios can be trusted, milliseconds cannot.

    python -m benchmarks.similar MODEL DATA [--k 5] [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from limelens.cli.terminal.printing import print_json
from limelens.serve.client.in_process import local_client
from limelens.serve.errors import LimelensError
from limelens.serve.tools.similar import SimilarIndex, build_index, embed_files, find_images
from limelens.serve.tools.similar.space import FeatureSpace

_SPLITS = {"train": ("train",), "val": ("val", "validation")}


def main() -> None:
    """Measures and prints two tables, or one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a model.onnx, or its folder")
    parser.add_argument("data", type=Path, help="a folder with train and val (or validation)")
    parser.add_argument("--k", type=int, default=5, help="neighbours of each image")
    parser.add_argument("--rounds", type=int, default=5, help="of timing; the median is taken")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.k < 1 or arguments.rounds < 1:
        parser.error("--k and --rounds must be at least 1")
    try:
        report = measure(arguments.model, arguments.data, arguments.k, arguments.rounds)
    except (LimelensError, OSError) as error:
        sys.exit(f"benchmarks.similar: {error}")
    if arguments.json:
        print_json(report)
    else:
        _print(report)


def measure(model: Path, data: Path, k: int = 5, rounds: int = 5) -> dict[str, Any]:
    """Precision of the neighbours and time of a search.

    Args:
        model: A bundle.
        data: A folder with train and val splits of label folders.
        k: Neighbours of each image.
        rounds: How often each search is timed.

    Returns:
        What `--json` prints.

    Raises:
        LimelensError: A split is missing or empty, or the bundle is refused.
    """
    with local_client(model) as client:
        train = embed_files(client, *_split(data, "train"))
        val = embed_files(client, *_split(data, "val"))
    k = min(k, len(train.images))
    exact = build_index(train.vectors, train.images, train.made, exact=True)
    graph = build_index(train.vectors, train.images, train.made, exact=False)
    plain = build_index(train.vectors, train.images, train.made, space=FeatureSpace())
    labels = np.array([one.label for one in train.images])
    wanted = np.array([one.label for one in val.images])
    hits, similarities = _hits(exact, val.vectors, wanted, k)
    plain_hits, plain_similarities = _hits(plain, val.vectors, wanted, k)
    in_train = Counter(labels.tolist())
    per_label = {
        str(label): {
            "precision": float(hits[wanted == label].mean()),
            "as_given": float(plain_hits[wanted == label].mean()),
            "by_chance": in_train[str(label)] / len(labels),
            "queries": int((wanted == label).sum()),
            "train": in_train[str(label)],
        }
        for label in np.unique(wanted)
    }
    placed = exact.space.placed(train.vectors)
    searches: dict[str, Callable[[NDArray[np.float32]], list[int]]] = {
        "numpy, brute force": lambda vector: _brute_force(placed, vector, k),
        "faiss, exact": lambda vector: _rows(exact, vector, k),
        "faiss, graph (HNSW)": lambda vector: _rows(graph, vector, k),
    }
    milliseconds, found = _timed(searches, exact.space.placed(val.vectors), rounds)
    truth = found["numpy, brute force"]
    return {
        "model": train.made.model,
        "version": train.made.version,
        "data": str(data),
        "k": k,
        "embedding_size": train.made.embedding_size,
        "num_train": len(train.images),
        "num_queries": len(val.images),
        "macro_precision": float(np.mean([row["precision"] for row in per_label.values()])),
        "micro_precision": float(hits.mean()),
        "macro_as_given": float(np.mean([row["as_given"] for row in per_label.values()])),
        "micro_as_given": float(plain_hits.mean()),
        "is_whitened": exact.space.whitening is not None,
        "similarities": {
            name: {
                "nearest": float(np.median(found[:, 0])),
                "farthest": float(np.median(found[:, -1])),
                "printed_alike": float(np.mean(_are_printed_alike(found))),
            }
            for name, found in (("index", similarities), ("as_given", plain_similarities))
        },
        "per_label": per_label,
        "search": {
            name: {
                "ms_per_query": milliseconds[name],
                "times_numpy": milliseconds[name] / milliseconds["numpy, brute force"],
                "same_neighbours": _overlap(truth, found[name]),
            }
            for name in searches
        },
        "skipped": [
            {"path": one.path, "reason": one.reason} for one in (*train.skipped, *val.skipped)
        ],
    }


def _hits(
    index: SimilarIndex, vectors: NDArray[np.float32], wanted: NDArray[np.str_], k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The share of neighbours with the label of each query, `(N,)`, and similarities, `(N, k)`."""
    found = index.search(vectors, k)
    hits = [
        np.mean([one.label == label for one in row])
        for label, row in zip(wanted, found, strict=True)
    ]
    return np.array(hits), np.array([[one.similarity for one in row] for row in found])


def _are_printed_alike(similarities: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether all of a query's neighbours have the same similarity in four digits, `(N,)`."""
    digits = similarities.round(4)
    alike: NDArray[np.bool_] = digits[:, 0] == digits[:, -1]
    return alike


def _split(data: Path, split: str) -> tuple[Path, Any]:
    for name in _SPLITS[split]:
        if (data / name).is_dir():
            return data / name, find_images(data / name)[0]
    raise LimelensError(f"{data} has no {split}; expected {' or '.join(_SPLITS[split])} in it")


def _brute_force(vectors: NDArray[np.float32], vector: NDArray[np.float32], k: int) -> list[int]:
    similarities = vectors @ vector
    nearest = np.argpartition(-similarities, k - 1)[:k]
    rows: list[int] = nearest[np.argsort(-similarities[nearest], kind="stable")].tolist()
    return rows


def _rows(index: SimilarIndex, vector: NDArray[np.float32], k: int) -> list[int]:
    # Only faiss and numpy: adding paths and labels costs both the same.
    rows: list[int] = index.faiss_index.search(vector[np.newaxis], k)[1][0].tolist()
    return rows


def _timed(
    searches: dict[str, Callable[[NDArray[np.float32]], list[int]]],
    queries: NDArray[np.float32],
    rounds: int,
) -> tuple[dict[str, float], dict[str, list[list[int]]]]:
    """Milliseconds for each query, the median of some rounds, and the neighbours."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    found: dict[str, list[list[int]]] = {}
    for round_ in range(rounds + 1):
        for name, search in searches.items():
            start = time.perf_counter()
            found[name] = [search(query) for query in queries]
            if round_:  # the first is for warming up
                times[name].append(time.perf_counter() - start)
    medians = {
        name: 1000 * statistics.median(values) / len(queries) for name, values in times.items()
    }
    return medians, found


def _overlap(truth: list[list[int]], found: list[list[int]]) -> float:
    shares = [len({*a} & {*b}) / len(a) for a, b in zip(truth, found, strict=True)]
    return float(np.mean(shares))


def _print(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    k = report["k"]
    table = Table(
        title=f"{report['model']} {report['version']}: {report['num_queries']} images of val "
        f"among {report['num_train']} of train"
    )
    table.add_column("label")
    for column in (f"precision@{k}", "as given", "by chance", "val", "train"):
        table.add_column(column, justify="right")
    for label, row in report["per_label"].items():
        table.add_row(
            label,
            f"{row['precision']:.3f}",
            f"{row['as_given']:.3f}",
            f"{row['by_chance']:.3f}",
            str(row["queries"]),
            str(row["train"]),
        )
    table.add_section()
    for kind in ("macro", "micro"):
        table.add_row(
            f"{kind} average",
            f"{report[f'{kind}_precision']:.4f}",
            f"{report[f'{kind}_as_given']:.4f}",
        )
    console.print(table)
    for name, row in report["similarities"].items():
        console.print(
            f"{name}: the nearest neighbour's similarity is {row['nearest']:.4f}, the "
            f"{report['k']}th's {row['farthest']:.4f} (medians); all alike in four digits for "
            f"{row['printed_alike']:.1%} of images"
        )
    table = Table(
        title=f"one search among {report['num_train']} vectors of {report['embedding_size']}"
    )
    table.add_column("by")
    for column in ("ms", "times numpy", "same neighbours"):
        table.add_column(column, justify="right")
    for name, row in report["search"].items():
        table.add_row(
            name,
            f"{row['ms_per_query']:.3f}",
            f"{row['times_numpy']:.2f}",
            f"{row['same_neighbours']:.1%}",
        )
    console.print(table)
    if report["skipped"]:
        first = report["skipped"][0]
        console.print(
            f"{len(report['skipped'])} images were left out, such as {first['path']}: "
            f"{first['reason']}",
            markup=False,
        )


if __name__ == "__main__":
    main()
