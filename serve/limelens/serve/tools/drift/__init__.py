"""Drift: whether images are unlike those of an index, by a two-sample test.

`comparing` tests, `watching` does so in a server while it serves. scipy (extra `explain`) and faiss
(extra `similar`) are loaded only when an index is read.
"""

from limelens.serve.tools.drift.comparing import (
    FEWEST,
    LEAST_KS,
    MOST_P,
    Comparison,
    LabelShare,
    Reference,
    Sample,
    Shift,
    TooFewImagesError,
    compare,
    reference_of,
)

__all__ = [
    "FEWEST",
    "LEAST_KS",
    "MOST_P",
    "Comparison",
    "LabelShare",
    "Reference",
    "Sample",
    "Shift",
    "TooFewImagesError",
    "compare",
    "reference_of",
]
