"""Other packages' LIME on the same image and weights, for comparison.

It knows how to call lime, dianna and captum, but not how to measure time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle

_CAPTUM_BATCH = 32
Explains = Callable[[int], int | None]
"""Explains with this many samples; returns the number of segments if it is known."""


def peers(
    bundle: Bundle, image: NDArray[np.uint8], run: Path | None, num_threads: int
) -> Iterator[tuple[str, Explains]]:
    """The packages that are installed and can explain this model.

    Args:
        bundle: The model.
        image: `(H, W, 3)` uint8, as the model sees it.
        run: The training run that the bundle was exported from, which captum needs.
        num_threads: For torch.
    """
    yield "lime 0.2.0.1 (quickshift)", _lime(bundle, image)
    if importlib.util.find_spec("dianna") is not None:
        yield "dianna (quickshift)", _dianna(bundle, image)
    if importlib.util.find_spec("captum") is not None and run is not None and run.exists():
        yield f"captum (slic, {_CAPTUM_BATCH} at a time)", _captum(run, image, num_threads)


def missing() -> list[str]:
    """The packages of the extra `peers` that are not installed."""
    return [name for name in ("dianna", "captum") if importlib.util.find_spec(name) is None]


def _lime(bundle: Bundle, image: NDArray[np.uint8]) -> Explains:
    from lime.lime_image import LimeImageExplainer

    def explains(num_samples: int) -> int:
        with contextlib.redirect_stderr(io.StringIO()):  # where its progress bar would be
            found = LimeImageExplainer(random_state=0).explain_instance(
                image, bundle.predict, num_samples=num_samples
            )
        return int(np.unique(found.segments).size)

    return explains


def _dianna(bundle: Bundle, image: NDArray[np.uint8]) -> Explains:
    import dianna

    def explains(num_samples: int) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            dianna.explain_image(
                str(bundle.path),
                image,
                method="LIME",
                labels=[0],
                num_samples=num_samples,
                axis_labels={2: "channels"},
                random_state=0,
            )

    return explains


def _captum(run: Path, image: NDArray[np.uint8], num_threads: int) -> Explains:
    import torch
    from captum.attr import Lime
    from skimage.segmentation import slic

    from limelens.train import checkpoint

    classifier = checkpoint.load(run).model
    torch.set_num_threads(num_threads)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float()

    def probabilities(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.softmax(classifier(images), dim=1)

    def explains(num_samples: int) -> int:
        segments = slic(image, n_segments=40, start_label=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            Lime(probabilities).attribute(
                pixels,
                target=0,
                baselines=pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels),
                feature_mask=torch.from_numpy(segments)[None, None],
                n_samples=num_samples,
                perturbations_per_eval=_CAPTUM_BATCH,
            )
        return int(np.unique(segments).size)

    return explains
