"""What a visitor who tries an image asks for, read from a URL's query within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limelens.explain.settings import DEFAULT_NUM_SEGMENTS
from limelens.serve import InvalidRequestError, ModelInfo
from limelens.serve.client import ClassifyArguments, ExplainArguments

SEGMENTS: Final = (10, 150)
SAMPLES: Final = (100, 4000)
FILLS: Final = ("mean", "blur", "shuffle", "references")
TIMEOUT_S: Final = 60.0
"""After which a trial ends without a result: it holds a place at the server."""

_NUMBERED: Final = (None, "slic", "grid")
_SAMPLES_UNSET: Final = 1000


class Asked(BaseModel):
    """What to do with an image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(default="", max_length=200, description="Empty means the only one served.")
    version: int = Field(default=0, ge=0, lt=2**31, description="0 means the newest.")
    faces: bool = Field(default=False, description="Whether to look at each face.")
    face: int | None = Field(
        default=None, ge=0, lt=1000, description="Which to explain; unset: the worst."
    )
    label: str = Field(default="", max_length=200, description="Empty means the most probable.")
    segments: int | None = Field(default=None, ge=SEGMENTS[0], le=SEGMENTS[1])
    samples: int | None = Field(default=None, ge=SAMPLES[0], le=SAMPLES[1])
    fill: Literal["", "mean", "blur", "shuffle", "references"] = Field(
        default="", description="What replaces a hidden segment; empty: as the model has it."
    )

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Self:
        """Reads a query; values that are empty count as unset.

        Raises:
            InvalidRequestError: A value is out of bounds, or unknown.
        """
        try:
            return cls.model_validate({name: value for name, value in query.items() if value})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise InvalidRequestError(".".join(map(str, first["loc"])), first["msg"]) from None

    def to_classify(self) -> ClassifyArguments:
        """The arguments of `Client.classify`."""
        return {
            "model": self.model,
            "version": self.version,
            "faces": self.faces,
            "timeout_s": TIMEOUT_S,
        }

    def to_explain(self, info: ModelInfo) -> ExplainArguments:
        """The arguments of `Client.explain_stream`, for a model as the server describes it."""
        arguments: ExplainArguments = {
            "model": self.model,
            "version": self.version,
            "faces": self.faces,
            "face": self.face,
            "labels": [self.label] if self.label else [],
            "num_segments": self.segments or 0,
            "num_samples": self.samples or 0,
            "hide": self.fill or None,
            "renderings": ["segments"],
            "timeout_s": TIMEOUT_S,
        }
        usual = None if info.explain_settings is None else info.explain_settings.segmentation
        if self.segments and usual not in _NUMBERED:
            arguments["segmentation"] = "slic"  # the model's own takes no number
        return arguments


def usual_numbers(info: ModelInfo) -> tuple[int, int]:
    """How many segments and samples a model is explained with, within the bounds asked for."""
    settings = info.explain_settings
    segments = (settings and settings.num_segments) or DEFAULT_NUM_SEGMENTS
    samples = (settings and settings.num_samples) or _SAMPLES_UNSET
    return (
        min(max(segments, SEGMENTS[0]), SEGMENTS[1]),
        min(max(samples, SAMPLES[0]), SAMPLES[1]),
    )
