"""From encoded images to a network's outputs, several at a time.

On the CPU each thread decodes a few images and runs the model on them: nothing waits for anything,
and what it has just decoded is still in its core's cache. On a GPU, threads decode the next images
while a prepared batch runs. It knows bundles and images, and nothing of what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from limelens.bulk.work import BulkImage
from limelens.serve.bundle import Bundle
from limelens.serve.client.requests import image_message
from limelens.serve.image import Region
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.rpc.requests.classify import read_image
from limelens.serve.rpc.server_config import Limits

_Pixels = NDArray[np.uint8]
_Output = TypeVar("_Output")
_Item = TypeVar("_Item")
_LIMITS: Final = Limits()
_CPU_CHUNKS: Final = 8
_GPU_BATCHES: Final = 4
"""How many runs are handed over at once, on each thread of the CPU and on a GPU."""
_DECODED_AT_ONCE: Final = 8


def given_bytes(image: BulkImage) -> bytes:
    """The encoded image.

    Raises:
        OSError: It could not be read.
    """
    if image.data is None:
        raise OSError(image.error)
    return image.data


def encoded(image: BulkImage, region: Region | None = None) -> EncodedImage:
    """An image as a server gets it, not decoded yet.

    Raises:
        OSError: It could not be read.
        InvalidImageError: It has no bytes.
    """
    place = "images[0]"
    return read_image(image_message(given_bytes(image), region, place), place, _LIMITS)


class BatchRunner(Generic[_Output]):
    """Runs images through a model, in threads of its own.

    Args:
        bundle: Whose input the images are fitted to.
        predict: Runs `(N, H, W, 3)` uint8 images; gives an output for each.
        num_threads: Of decoding, and on the CPU of the model.
        region: The part of each image that the model sees.
    """

    def __init__(
        self,
        bundle: Bundle,
        predict: Callable[[_Pixels], Iterable[_Output]],
        num_threads: int,
        region: Region | None = None,
    ) -> None:
        self._rule = bundle.metadata.resize
        self._predict = predict
        self._region = region
        self._pool = ThreadPoolExecutor(num_threads, "limelens-bulk")
        self._is_on_gpu = bundle.runs is not None
        if bundle.runs is None:
            self._run_size = bundle.batch_size
            self.batch_size = self._run_size * _CPU_CHUNKS * num_threads
        else:
            self._run_size = bundle.runs.sizes[-1]
            self.batch_size = self._run_size * _GPU_BATCHES

    def __call__(self, images: Sequence[BulkImage]) -> list[_Output | Exception]:
        """The output of each image, or why there is none."""
        if not self._is_on_gpu:
            runs = self._pool.map(
                lambda part: self._run(self._decode(part)), _parts(images, self._run_size)
            )
        else:
            decoded = self._pool.map(self._decode, _parts(images, _DECODED_AT_ONCE))
            runs = map(self._run, _parts(chain.from_iterable(decoded), self._run_size))
        return list(chain.from_iterable(runs))

    def _decode(self, images: Sequence[BulkImage]) -> list[_Pixels | Exception]:
        found: list[_Pixels | Exception] = []
        for image in images:
            try:
                found.append(encoded(image, self._region).fitted(self._rule))
            # Whatever is wrong with one image, the others go on.
            except Exception as error:
                found.append(error)
        return found

    def _run(self, decoded: Sequence[_Pixels | Exception]) -> Iterator[_Output | Exception]:
        readable = [one for one in decoded if not isinstance(one, Exception)]
        outputs = iter(self._outputs(readable))
        return (one if isinstance(one, Exception) else next(outputs) for one in decoded)

    def _outputs(self, pixels: Sequence[_Pixels]) -> list[_Output | Exception]:
        if not pixels:
            return []
        try:
            return list(self._predict(np.stack(pixels)))
        except Exception as error:
            if len(pixels) == 1:
                return [error]
        # One image's numbers are not finite, or all of them need too much memory.
        half = len(pixels) // 2
        return self._outputs(pixels[:half]) + self._outputs(pixels[half:])


def _parts(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """The items in lists of a size; the last may be shorter."""
    items = iter(items)
    return iter(lambda: list(islice(items, size)), [])
