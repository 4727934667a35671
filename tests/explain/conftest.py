from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """96 x 80 pixels of smooth blobs and noise, so that every segmentation finds something."""
    rng = np.random.default_rng(11)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((80, 96), Image.Resampling.BICUBIC)).astype(np.int64)
    noisy = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255)
    return np.asarray(noisy, dtype=np.uint8)


@pytest.fixture(scope="session")
def linear_softmax() -> Callable[[tuple[int, int]], Predict]:
    """Makes a six-label classifier with fixed random weights for images of a size."""

    def make(size: tuple[int, int]) -> Predict:
        num_values = size[0] * size[1] * 3
        rng = np.random.default_rng(5)
        matrix = rng.normal(size=(num_values, 6)).astype(np.float32) * (8 / num_values**0.5)

        def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            flat = np.asarray(images).reshape(len(images), -1).astype(np.float32) / 255 - 0.5
            logits = flat @ matrix
            exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), dtype=np.float32)

        return predict

    return make
