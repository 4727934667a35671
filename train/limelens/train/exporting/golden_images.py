"""Which validation images travel in a bundle as golden images.

A later version is judged on them before it takes over. This module knows labels and files; how they
are written is `limelens.serve.bundle.golden_images`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from limelens.serve.bundle.golden_images import GoldenImage, encode_golden
from limelens.serve.image import ResizeRule, read_image
from limelens.train.data.examples import Example

NUM_GOLDEN_IMAGES: Final = 64
"""How many a bundle gets by default: about 0.45 MB at 144 pixels."""


def choose_examples(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Draws examples so that every label is shown as often as the others, where there are enough.

    Labels take turns, each with the next of its examples in a random order; an example without any
    label counts as one with a label of its own. The same arguments give the same examples.
    """
    order = np.random.default_rng(seed).permutation(len(examples))
    waiting: dict[int, list[int]] = {}
    for index in reversed(order.tolist()):
        for target in examples[index].targets or (-1,):
            waiting.setdefault(target, []).append(index)
    chosen: dict[int, None] = {}  # in the order of choice
    while waiting and len(chosen) < count:
        for target in sorted(waiting):
            while waiting[target] and waiting[target][-1] in chosen:
                waiting[target].pop()
            if waiting[target] and len(chosen) < count:
                chosen[waiting[target].pop()] = None
            if not waiting[target]:
                del waiting[target]
    return [examples[index] for index in chosen]


def golden_images(
    examples: Sequence[Example], labels: Sequence[str], rule: ResizeRule, count: int, seed: int
) -> tuple[GoldenImage, ...]:
    """The golden images of a bundle.

    Args:
        examples: Readable, and not those that it was trained on.
        labels: Of the bundle; the targets are indices into them.
        rule: How the bundle resizes.
        count: How many at most.
        seed: Of the choice.
    """
    return tuple(
        GoldenImage(
            tuple(labels[target] for target in example.targets),
            encode_golden(read_image(example.path.read_bytes()), rule),
        )
        for example in choose_examples(examples, count, seed)
    )
