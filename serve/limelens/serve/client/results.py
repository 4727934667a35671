"""The client's results: plain values. It knows nothing of messages and connections."""

from __future__ import annotations

import datetime
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.decisions.camera_state import CameraState as CameraState
from limelens.serve.decisions.decision import Decision, FacePrediction, Prediction
from limelens.serve.decisions.frame_status import ChangeStatus as ChangeStatus
from limelens.serve.decisions.frame_status import FrameStatus as FrameStatus
from limelens.serve.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model that gave a result, and the onnxruntime execution provider that it ran on."""

    name: str
    version: int
    provider: str


@dataclass(frozen=True, slots=True)
class Timings:
    """The server's time for a result, in milliseconds.

    `queue` ends where the work starts, `decode` is decoding and resizing, `run` the model itself,
    and `total` counts from arrival to the response.
    """

    queue: float
    decode: float
    run: float
    total: float


@dataclass(frozen=True)
class Classification(Sequence[Prediction]):
    """The predictions for the images of one call, in their order, and the time it took."""

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


@dataclass(frozen=True, eq=False)
class ImageFailure:
    """An image among many that could not be classified.

    `index` is its place among the images, `path` its file unless it was given as bytes or pixels,
    and `error` what is wrong with it: an error of limelens or an `OSError`.
    """

    index: int
    path: Path | None
    error: Exception

    @property
    def reason(self) -> str:
        """What is wrong with it, without its place."""
        if isinstance(self.error, InvalidRequestError):
            return self.error.description
        if isinstance(self.error, OSError) and self.error.strerror:
            return self.error.strerror
        return str(self.error)


@dataclass(frozen=True, eq=False)
class PartialClassification(Sequence[Prediction | ImageFailure]):
    """The results for many images, in their order; some may be failures.

    The model is None if no request succeeded; the time is that of all requests together.
    """

    results: tuple[Prediction | ImageFailure, ...]
    model: ModelRef | None
    timings_ms: Timings

    @property
    def failures(self) -> tuple[ImageFailure, ...]:
        """The images without a prediction."""
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


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The feature vectors of the images of one call, in their order.

    Args:
        vectors: `(N, D)` float32, one row for each image; of length 1 if requested.
        model: The model.
        model_digest: Vectors can be compared if it is the same; see the contract.
        timings_ms: The time it took.
    """

    vectors: NDArray[np.float32]
    model: ModelRef
    model_digest: str
    timings_ms: Timings

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class ChangeExplanation:
    """Why a camera's decision changed, or why there is no explanation.

    Args:
        status: How explaining it ended.
        label: What the decision changed to.
        explanation: Of the frame that brought the change; None without one.
        reason: Why there is none; empty if there is one.
        superseded_changes: Changes of this stream so far that a newer one superseded.
        person: With faces: the number of the person whose decision changed; otherwise None.
    """

    status: ChangeStatus
    label: str
    explanation: ServedExplanation | None
    reason: str
    superseded_changes: int
    person: int | None = None


@dataclass(frozen=True)
class FrameAnswer:
    """The answer to one frame of a camera, or other news of the stream: see `FrameStatus`.

    Args:
        frame_id: The frame; for an explanation the one that is explained, for an expired decision
            the last that was classified, for a lost server the last that was answered or -1.
        status: What happened to it.
        prediction: The frame's own; None unless it was classified.
        smoothed_label: The decision over the last frames; None while it is unknown.
        changed: Whether it differs from the previous answer.
        alert: Whether it is an alert label; False also while it is unknown.
        dropped_frames: Frames of this stream dropped so far.
        reason: What was wrong with the frame; empty if nothing was.
        model: The model.
        timings_ms: The time it took.
        capture_time: As the frame gave it; None if it gave none.
        explanation: Of an earlier change; None unless the status is `EXPLANATION`.
        smoothed_decision: Whether the smoothed decision is a label or unknown; with faces also
            `NO_FACE`, if nobody is there.
        state: What a door may rely on. It does not hold for longer than `max_decision_age_s`, nor
            once the answers end or fail: what is not `CLEAR` then is unknown.
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
    smoothed_decision: Decision = Decision.ABSTAINED
    state: CameraState = CameraState.UNKNOWN

    @property
    def faces(self) -> tuple[FacePrediction, ...]:
        """The people in the frame; empty unless faces were asked for and it was classified."""
        return () if self.prediction is None else self.prediction.faces


@dataclass(frozen=True, slots=True)
class SegmentWeight:
    """One segment's part: how the probability changes once it is visible, and its error."""

    segment: int
    weight: float
    std_error: float


@dataclass(frozen=True)
class LabelExplanation:
    """Which segments support one label and which oppose it.

    Args:
        label: Its name.
        probability: The model's, for the whole image; for a contrast the difference of the two.
        intercept: The surrogate's constant.
        local_prediction: The surrogate's value for the whole image.
        score: Weighted R² of the surrogate, at most 1.
        stability: Expected overlap of the strongest segments with another seed, 0 to 1.
        weights: Strongest first.
        overlay_png: The image with the strongest segments; empty unless requested.
        heat_map_png: The weight of every pixel as colours; empty unless requested.
        against: For a contrast the label that negative weights speak for; otherwise None.
        baseline: The model's probability with every segment hidden; for a contrast the difference
            of the two. None if the server is older and does not measure it.
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
    baseline: float | None = None


@dataclass(frozen=True)
class ExplainSettings:
    """How images are explained: by default, for a model; in fact, for an explanation.

    Args:
        method: As for `Client.explain`, like all that follow; None where a model leaves it open.
        hide: A fill's name, or `(r, g, b)`.
        num_fills: Of each row; None also for fills that do not differ.
        segmentation: None also if the caller brought the segments.
        num_segments: None also for segmentations that find their own number.
        segmentation_options: Further parameters.
        num_samples: The most samples.
        kernel_width: None also for other methods than lime.
        sampling: How rows are drawn.
        why: For a model: what led to these settings; else empty.
    """

    method: str | None = None
    hide: str | tuple[int, int, int] | None = None
    num_fills: int | None = None
    segmentation: str | None = None
    num_segments: int | None = None
    segmentation_options: Mapping[str, float] = field(default_factory=dict)
    num_samples: int | None = None
    kernel_width: float | None = None
    sampling: str | None = None
    why: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ExplanationTimings:
    """The server's time for an explanation, in milliseconds.

    `predict` is building and classifying the samples, `total` counts from arrival to the response.
    """

    decode: float
    segment: float
    predict: float
    fit: float
    total: float


@dataclass(frozen=True, eq=False)
class ServedExplanation:
    """Why the model predicts what it does for one image.

    Args:
        explanations: One for each label, in the order asked for; top labels most probable first;
            contrasts after them.
        num_segments: How many segments the image was cut into.
        num_samples: Images that the model was run on.
        seed: With it the same request gives the same result.
        warnings: Reasons not to trust it.
        segments_png: Segment ids of the upright image's size, as a 16-bit PNG; 65535 where the
            model never saw the pixel. Empty unless requested.
        model: The model.
        timings_ms: The time it took.
        method: How segments were weighted: `lime`, `kernel_shap`, `occlusion` or `rise`.
        face: The face that is explained; None unless faces were asked for.
        settings: How it was explained; with these, the same labels and the seed, the same request
            gives the same result. None if the server is older and does not say.
        settings_from_model: Which of them the call left open and the model decided, by name.
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
    face: FacePrediction | None = None
    settings: ExplainSettings | None = None
    settings_from_model: tuple[str, ...] = ()

    def segments(self) -> NDArray[np.uint16] | None:
        """`(H, W)` segment ids of the upright image; None unless requested."""
        if not self.segments_png:
            return None
        with Image.open(io.BytesIO(self.segments_png)) as image:
            return np.asarray(image).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class ExplanationUpdate:
    """An explanation that is still improving.

    Args:
        explanation: So far.
        num_samples: Images that the model was run on so far.
        max_samples: How many there will be at most.
        stability: The least of the labels explained so far.
        is_final: Whether it is the last one, which equals the result of `explain`.
    """

    explanation: ServedExplanation
    num_samples: int
    max_samples: int
    stability: float
    is_final: bool


@dataclass(frozen=True, slots=True)
class LabelInfo:
    """One label that a model may give.

    A multilabel model gives it from `threshold` on. `macro_label` is its superclass, if it has one.
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
        ready: Whether it is served; otherwise the fields below are empty.
        task: `multiclass` or `multilabel`.
        labels: In the order of the model's outputs.
        input_size: Height and width that the network sees, in pixels.
        resize_mode: `stretch`, `crop` or `pad`.
        threshold: The least probability for a decision; 0 never abstains.
        provider: The onnxruntime execution provider that it runs on.
        provider_reason: Why it runs there, if that is not what was configured.
        precision: `fp32`, `fp16` or `int8`.
        embedding_size: Length of the feature vector.
        max_pixels: Most pixels of one image.
        max_images: Most images in one request.
        card: The bundle's metadata; empty unless one model was requested.
        state_reason: Why it is not served, or why its current file was rejected while an earlier
            one is served; empty if nothing was rejected.
        batch_sizes: On a GPU, the prepared batch sizes, ascending; otherwise empty.
        no_graph_reason: Why a GPU replays no CUDA graphs, which are faster; otherwise empty.
        tf32: Whether a GPU rounds factors to 10 bits (TF32).
        explain_settings: How `explain` explains it where a call leaves that open; None if the
            bundle does not say.
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
    explain_settings: ExplainSettings | None = None
