"""What the client gives back: plain values, finished at birth.

It knows nothing of messages and connections.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.decisions.decision import Prediction
from limelens.serve.decisions.frame_status import ChangeStatus as ChangeStatus
from limelens.serve.decisions.frame_status import FrameStatus as FrameStatus
from limelens.serve.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Who answered.

    Args:
        name: The model's name.
        version: Its version.
        provider: The onnxruntime execution provider that it ran on.
    """

    name: str
    version: int
    provider: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of an answer went on the server, in milliseconds.

    Args:
        queue: From arrival to the start of the work.
        decode: Decoding and resizing.
        run: The model itself.
        total: From arrival to the answer.
    """

    queue: float
    decode: float
    run: float
    total: float


@dataclass(frozen=True)
class Classification(Sequence[Prediction]):
    """The predictions for the images of one call, in their order.

    Args:
        predictions: One for each image.
        model: Who answered.
        timings_ms: Where the time went.
    """

    predictions: tuple[Prediction, ...]
    model: ModelRef
    timings_ms: Timings

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Prediction]: ...
    def __getitem__(self, index: int | slice) -> Prediction | Sequence[Prediction]:
        return self.predictions[index]

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)


@dataclass(frozen=True, eq=False)
class ImageFailure:
    """An image among many that could not be classified.

    Args:
        index: Its place among the images, from 0.
        path: Its file; None where it was given as bytes or pixels.
        error: What is wrong with it, an error of limelens or an `OSError`.
    """

    index: int
    path: Path | None
    error: Exception

    @property
    def reason(self) -> str:
        """What is wrong with it, without the place, which is told apart."""
        if isinstance(self.error, InvalidRequestError):
            return self.error.description
        if isinstance(self.error, OSError) and self.error.strerror:
            return self.error.strerror
        return str(self.error)


@dataclass(frozen=True, eq=False)
class PartialClassification(Sequence[Prediction | ImageFailure]):
    """The answers for many images, in their order, of which some may have none.

    Args:
        results: One for each image.
        model: Who answered last; None where nobody was asked.
        timings_ms: Where the time went, of all requests together.
    """

    results: tuple[Prediction | ImageFailure, ...]
    model: ModelRef | None
    timings_ms: Timings

    @property
    def failures(self) -> tuple[ImageFailure, ...]:
        """The images without an answer."""
        return tuple(one for one in self.results if isinstance(one, ImageFailure))

    @overload
    def __getitem__(self, index: int) -> Prediction | ImageFailure: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Prediction | ImageFailure]: ...
    def __getitem__(
        self, index: int | slice
    ) -> Prediction | ImageFailure | Sequence[Prediction | ImageFailure]:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Prediction | ImageFailure]:
        return iter(self.results)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The feature vectors of the images of one call, in their order.

    Args:
        vectors: `(N, D)` float32, one row for each image; of length 1 where that was asked for.
        model: Who answered.
        model_digest: Vectors can be compared where it is the same; see the contract.
        timings_ms: Where the time went.
    """

    vectors: NDArray[np.float32]
    model: ModelRef
    model_digest: str
    timings_ms: Timings

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class ChangeExplanation:
    """Why a camera's decision changed, or why that is not explained.

    Args:
        status: What came of it.
        label: What the decision changed to.
        explanation: Of the frame that brought the change; None unless there is one.
        reason: Why there is none; empty where there is one.
        superseded_changes: Changes of this stream so far that gave way to a newer one.
    """

    status: ChangeStatus
    label: str
    explanation: ServedExplanation | None
    reason: str
    superseded_changes: int


@dataclass(frozen=True)
class FrameAnswer:
    """The answer to one frame of a camera, or news that came without one: see `FrameStatus`.

    Args:
        frame_id: The frame that is answered; of an explanation the frame that is explained, of
            an expired decision the last frame that was classified.
        status: What became of it.
        prediction: The frame's own; None unless it was classified.
        smoothed_label: The decision over the last frames; None while it is unknown.
        changed: Whether that is another than at the last answer.
        alert: Whether somebody must be told of it.
        dropped_frames: Frames of this stream dropped so far.
        reason: What was wrong with the frame; empty where nothing was.
        model: Who answered.
        timings_ms: Where the time went.
        capture_time: As the frame gave it; None where it gave none.
        explanation: Of an earlier change; None unless the status says that there is one.
    """

    frame_id: int
    status: FrameStatus
    prediction: Prediction | None
    smoothed_label: str | None
    changed: bool
    alert: bool
    dropped_frames: int
    reason: str
    model: ModelRef
    timings_ms: Timings
    capture_time: datetime.datetime | None
    explanation: ChangeExplanation | None = None


@dataclass(frozen=True, slots=True)
class SegmentWeight:
    """One segment's part in an explanation.

    Args:
        segment: Its id.
        weight: Change of the probability when it is shown instead of hidden.
        std_error: Standard error of the weight.
    """

    segment: int
    weight: float
    std_error: float


@dataclass(frozen=True)
class LabelExplanation:
    """Which segments count in favour of one label and which against.

    Args:
        label: Its name.
        probability: The model's, for the whole image; of a contrast the difference of the two.
        intercept: The surrogate's constant.
        local_prediction: The surrogate's value for the whole image.
        score: Weighted R² of the surrogate, at most 1.
        stability: Expected overlap of the strongest segments with another seed, 0 to 1.
        weights: Strongest first.
        overlay_png: The image with the strongest segments; empty unless it was asked for.
        heat_map_png: The weight of every pixel as colours; empty unless it was asked for.
        against: Of a contrast the label that negative weights speak for; else None.
    """

    label: str
    probability: float
    intercept: float
    local_prediction: float
    score: float
    stability: float
    weights: tuple[SegmentWeight, ...]
    overlay_png: bytes = field(repr=False)
    heat_map_png: bytes = field(repr=False)
    against: str | None = None


@dataclass(frozen=True, slots=True)
class ExplanationTimings:
    """Where the time of an explanation went on the server, in milliseconds.

    Args:
        decode: Decoding and resizing.
        segment: Cutting the image into segments.
        predict: Building and classifying the samples.
        fit: Fitting the surrogate.
        total: From arrival to the answer.
    """

    decode: float
    segment: float
    predict: float
    fit: float
    total: float


@dataclass(frozen=True, eq=False)
class ServedExplanation:
    """Why the model says what it says of one image.

    Args:
        explanations: One for each label, in the order asked for; top labels most probable first;
            contrasts after them.
        num_segments: How many segments the image was cut into.
        num_samples: Images that the model was shown.
        seed: With it the same request gives the same answer.
        warnings: What speaks against trusting it.
        segments_png: Segment ids of the upright image's size, as a 16-bit PNG; 65535 where the
            model never saw the pixel. Empty unless it was asked for.
        model: Who answered.
        timings_ms: Where the time went.
        method: How segments were weighed: `lime`, `kernel_shap`, `occlusion` or `rise`.
    """

    explanations: tuple[LabelExplanation, ...]
    num_segments: int
    num_samples: int
    seed: int
    warnings: tuple[str, ...]
    segments_png: bytes = field(repr=False)
    model: ModelRef
    timings_ms: ExplanationTimings
    method: str = "lime"

    def segments(self) -> NDArray[np.uint16] | None:
        """`(H, W)` segment ids of the upright image; None unless they were asked for."""
        if not self.segments_png:
            return None
        with Image.open(io.BytesIO(self.segments_png)) as image:
            return np.asarray(image).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class ExplanationUpdate:
    """An explanation that is still becoming better.

    Args:
        explanation: So far.
        num_samples: Images that the model was shown so far.
        max_samples: How many there will be at most.
        stability: The least of the labels explained so far.
        is_final: Whether it is the last, and what `explain` would give.
    """

    explanation: ServedExplanation
    num_samples: int
    max_samples: int
    stability: float
    is_final: bool


@dataclass(frozen=True, slots=True)
class LabelInfo:
    """One label that a model may give.

    Args:
        name: Its name.
        threshold: For multilabel models, the label is given from this probability on.
        alert: Whether somebody must be told of it.
        macro_label: The coarser category that it belongs to; None where there is none.
    """

    name: str
    threshold: float
    alert: bool
    macro_label: str | None


@dataclass(frozen=True)
class ModelInfo:
    """One version of one model on a server.

    Args:
        name: The model's name.
        version: Its version.
        ready: Whether it answers; where it does not, what follows is empty.
        task: `multiclass` or `multilabel`.
        labels: In the order of the model's outputs.
        input_size: Height and width that the network sees, in pixels.
        resize_mode: `stretch`, `crop` or `pad`.
        threshold: The least probability for a decision; 0 never abstains.
        provider: The onnxruntime execution provider that it runs on.
        provider_reason: Why it runs there, where that is not what was asked for.
        precision: `fp32`, `fp16` or `int8`.
        embedding_size: Length of the feature vector.
        max_pixels: Most pixels of an image that is sent.
        max_images: Most images in one request.
        card: The bundle's metadata; empty unless one model was asked for.
        state_reason: Why it does not answer, or why its file that is there now was refused while
            what was loaded before answers; empty where nothing was refused.
        batch_sizes: On a GPU, the sizes of batches that are prepared, ascending; else empty.
        no_graph_reason: Why a GPU replays no CUDA graphs, which would be faster; else empty.
        tf32: Whether a GPU rounds what it multiplies to 10 bits.
    """

    name: str
    version: int
    ready: bool
    task: str
    labels: tuple[LabelInfo, ...]
    input_size: tuple[int, int]
    resize_mode: str
    threshold: float
    provider: str
    provider_reason: str
    precision: str
    embedding_size: int
    max_pixels: int
    max_images: int
    card: dict[str, Any] = field(repr=False)
    state_reason: str = ""
    batch_sizes: tuple[int, ...] = ()
    no_graph_reason: str = ""
    tf32: bool = False
