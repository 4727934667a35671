"""The metadata of a bundle: labels, thresholds, resize rule, model card, golden vector.

It knows how they are written as `metadata_props` of an ONNX file, and nothing of graphs.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.devices import TF32
from limelens.serve.bundle.explain_defaults import ExplainDefaults
from limelens.serve.bundle.golden_images import (
    GoldenImage,
    check_golden_images,
    golden_images_from_json,
    golden_images_to_json,
)
from limelens.serve.errors import BundleError
from limelens.serve.image import ResizeMode, ResizeRule

_PREFIX: Final = "limelens."
FORMAT_VERSION: Final = 1
MAX_TOLERANCE: Final = 0.1
MAX_CROP: Final = 2.0
_OPTIONAL: Final = ("crop", "golden_images", "explain")
_TF32_SCALE: Final = 10.0
"""Factor by which TF32 raises the tolerance, unless the golden vector names one for it."""


class Task(StrEnum):
    """What a model says of an image: how many labels it has, or where things are."""

    MULTICLASS = "multiclass"
    """Exactly one."""
    MULTILABEL = "multilabel"
    """Any number."""
    DETECTION = "detection"
    """No label, but K boxes: `probabilities` are their scores, and `embedding` their places."""


CLASSIFYING: Final = frozenset({Task.MULTICLASS, Task.MULTILABEL})


@dataclass(frozen=True)
class Golden:
    """The golden vector: an image, and the probabilities that the model must give everywhere.

    Args:
        image: `(H, W, 3)` uint8 of the bundle's input size.
        probabilities: `(C,)` float32; of a detector the scores of its K boxes, highest first.
        tolerance: By execution provider, the largest absolute difference that is accepted, at
            most `MAX_TOLERANCE`.
    """

    image: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    tolerance: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.tolerance, Mapping):
            raise BundleError(f"tolerance {self.tolerance!r}; expected numbers by provider")
        for provider, value in self.tolerance.items():
            if not _is_within(value, MAX_TOLERANCE):
                raise BundleError(
                    f"the tolerance for {provider} is {value!r}; expected 0 to {MAX_TOLERANCE}"
                )

    def tolerance_for(self, provider: str, *, tf32: bool) -> float:
        """The largest difference that is accepted on a provider; KeyError if there is none."""
        if tf32 and TF32 in self.tolerance:
            return self.tolerance[TF32]
        return self.tolerance[provider] * (_TF32_SCALE if tf32 else 1.0)


@dataclass(frozen=True)
class Metadata:
    """Everything about a bundle but its graph.

    Args:
        labels: In the order of the outputs; unique, at least one.
        golden: A test that every provider must pass.
        threshold: Of a multiclass model: it abstains below this probability.
        label_thresholds: For multilabel, by label; empty for multiclass.
        alert_labels: Labels that raise an alert.
        macro_labels: The superclass of each label; empty if there are none.
        data_digest: SHA-256 of the training data, hexadecimal.
        card: Metrics of training and evaluation, and other facts for readers; JSON.
        crop: What the model should see around a face: the margin on each side of its box, as a
            fraction of the box's width and height, 0 to `MAX_CROP`; None if that was not measured.
        explain: How it is explained where a caller leaves that open; None leaves it to the library.
        golden_images: Labelled examples, to judge the versions that follow by; may be empty.

    Raises:
        BundleError: A value is invalid, or two do not fit each other.
    """

    name: str
    task: Task
    labels: tuple[str, ...]
    resize: ResizeRule
    golden: Golden
    threshold: float = 0.0
    label_thresholds: tuple[float, ...] = ()
    alert_labels: tuple[str, ...] = ()
    macro_labels: Mapping[str, str] = field(default_factory=dict)
    precision: str = "fp32"
    data_digest: str = ""
    limelens_version: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    crop: float | None = None
    golden_images: tuple[GoldenImage, ...] = ()
    explain: ExplainDefaults | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise BundleError(f"labels {self.labels!r}; expected at least one, each once")
        unknown = ({*self.alert_labels} | {*self.macro_labels}) - {*self.labels}
        if unknown:
            raise BundleError(
                f"alert labels or superclasses name {sorted(unknown)}; the labels are {self.labels}"
            )
        if self.task is Task.MULTILABEL and len(self.label_thresholds) != len(self.labels):
            raise BundleError(
                f"{len(self.label_thresholds)} thresholds for {len(self.labels)} labels; "
                "a multilabel bundle needs one each"
            )
        is_multilabel = self.task is Task.MULTILABEL
        check_golden_images(self.golden_images, self.labels, is_multilabel=is_multilabel)

    def _check_types(self) -> None:
        """Checks types at run time: a file can hold anything."""
        texts = {
            "name": (self.name,),
            "labels": self.labels,
            "alert_labels": self.alert_labels,
            "precision": (self.precision,),
            "data_digest": (self.data_digest,),
            "version": (self.limelens_version,),
        }
        mappings = {"macro_labels": self.macro_labels, "card": self.card}
        for key, mapping in mappings.items():
            if not isinstance(mapping, Mapping):
                raise BundleError(f"{key} is a {type(mapping).__name__}; expected a mapping")
        texts["macro_labels"] = (*self.macro_labels, *self.macro_labels.values())
        for key, values in texts.items():
            if not all(isinstance(value, str) for value in values):
                raise BundleError(f"{key} {values!r}; expected text")
        for threshold in (self.threshold, *self.label_thresholds):
            if not _is_within(threshold, 1.0):
                raise BundleError(f"threshold {threshold!r}; expected 0 to 1")
        if self.explain is not None and not isinstance(self.explain, ExplainDefaults):
            raise BundleError(f"explain {self.explain!r}; expected explanation settings")
        if self.crop is not None and not _is_within(self.crop, MAX_CROP):
            raise BundleError(f"crop {self.crop!r}; expected 0 to {MAX_CROP:g}")

    def to_props(self) -> dict[str, str]:
        """The metadata as `metadata_props`: JSON under keys that begin with `limelens.`."""
        golden = {
            "image": base64.b64encode(self.golden.image.tobytes()).decode("ascii"),
            "shape": self.golden.image.shape,
            "probabilities": [float(p) for p in self.golden.probabilities],
            "tolerance": dict(self.golden.tolerance),
        }
        values = {"format": FORMAT_VERSION, **vars(self), "golden": golden}
        values |= {
            "resize": asdict(self.resize),
            "macro_labels": dict(self.macro_labels),
            "version": values.pop("limelens_version"),
            "card": dict(self.card),
            "golden_images": golden_images_to_json(self.golden_images),
            "explain": None if self.explain is None else self.explain.to_json(),
        }
        # As in bundles that were written before there were these.
        for name in _OPTIONAL:
            if getattr(self, name) in (None, ()):
                del values[name]
        return {
            _PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in values.items()
        }

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> Metadata:
        """Reads what `to_props` wrote.

        Raises:
            BundleError: A key is missing or its value is invalid.
        """
        if _PREFIX + "format" not in props:
            raise BundleError("no limelens metadata; expected a file written by `limelens export`")
        try:
            values = {
                key.removeprefix(_PREFIX): json.loads(value)
                for key, value in props.items()
                if key.startswith(_PREFIX)
            }
            if values["format"] != FORMAT_VERSION:
                raise BundleError(
                    f"bundle format {values['format']}; this limelens reads {FORMAT_VERSION}"
                )
            golden, resize = values["golden"], values["resize"]
            image = np.frombuffer(base64.b64decode(golden["image"]), dtype=np.uint8)
            as_written = ("name", "threshold", "macro_labels", "precision", "data_digest", "card")
            lists = ("labels", "label_thresholds", "alert_labels")
            plain: dict[str, Any] = {key: values[key] for key in as_written}
            explain = values.get("explain")
            return cls(
                **plain | {key: _listed(values[key]) for key in lists},
                task=Task(values["task"]),
                resize=ResizeRule(resize["height"], resize["width"], ResizeMode(resize["mode"])),
                golden=Golden(
                    image.reshape(golden["shape"]),
                    np.asarray(golden["probabilities"], dtype=np.float32),
                    golden["tolerance"],
                ),
                limelens_version=values["version"],
                crop=values.get("crop"),
                explain=None if explain is None else ExplainDefaults.from_json(explain),
                golden_images=golden_images_from_json(values.get("golden_images", [])),
            )
        except KeyError as error:
            raise BundleError(f"the metadata lacks {_PREFIX}{error.args[0]}") from error
        except BundleError:
            raise
        # JSON can hold anything, nested too deeply included.
        except Exception as error:
            raise BundleError(f"the metadata cannot be read: {error}") from error


def _listed(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise BundleError(f"{value!r} in the metadata; expected a list")
    return tuple(value)


def _is_within(value: Any, most: float) -> bool:
    """Whether a value is a finite number from 0 to `most`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 <= value <= most
