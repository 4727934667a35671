"""A bundle: one ONNX file that holds a classifier and everything needed to use it.

The graph takes `images: uint8 (N, H, W, 3)` RGB and returns `probabilities: float32 (N, C)` and
`embedding: float32 (N, D)`. Everything else is in the file's metadata. A detector of faces has the
same form: `probabilities` are the scores of K boxes, highest first, and `embedding (N, 4K)` their
left, top, right and bottom edges, in fractions of the input.
"""

from limelens.serve.bundle.checks import check_model, read_metadata, seal
from limelens.serve.bundle.loading import load_bundle
from limelens.serve.bundle.metadata import Golden, Metadata, Task
from limelens.serve.bundle.session import Bundle

__all__ = [
    "Bundle",
    "Golden",
    "Metadata",
    "Task",
    "check_model",
    "load_bundle",
    "read_metadata",
    "seal",
]
