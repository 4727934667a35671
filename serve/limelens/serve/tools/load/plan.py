"""The load to put on a server. It knows numbers and images, and nothing of how they are sent."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from PIL import Image

from limelens.serve.client import FaceOptions, Tls
from limelens.serve.errors import InvalidRequestError


class Kind(StrEnum):
    """A kind of call."""

    CLASSIFY = "classify"
    STREAM = "stream"
    EXPLAIN = "explain"


@dataclass(frozen=True)
class LoadPlan:
    """What to send to a server, from how many callers, for how long.

    Args:
        server, tls, token, insecure_token: As for `Client`.
        images: Encoded images, sent in turns; at least one.
        model: Its name; empty is the only one.
        callers: Callers of Classify, each with its next call as soon as the last has ended
            (closed loop).
        rate: Calls of Classify a second, at random intervals, whether or not others have ended
            (open loop); replaces the callers.
        streams, fps: Cameras, and the frames a second that each sends when they are due.
        explainers: Callers of Explain, in a closed loop.
        num_samples: For each explanation; 0 is the server's default.
        duration_s, warmup_s: For how long calls count, and for how long before they do not.
        deadline_s, explain_deadline_s: Of each call of Classify, and of Explain.
        calls_each: Most calls of each caller of Classify.
        broken: Share of calls of Classify whose image is cut off, 0 to 1.
        processes: Processes that send; no more are started than have something to do.
        connections: Shared by callers, cameras and explainers, at least one for each process;
            None is one for up to 16 of them. A server of several processes gives each connection
            to one of them.
        faces: Which faces to look for in all calls; None classifies and explains whole images.
        seed: For intervals and for which images are broken.
        requests: Serialized messages to send in place of the images, in turns.
        method: Takes `requests`; the path of a unary call. None is our Classify.

    Raises:
        InvalidRequestError: A number is out of range.
    """

    server: str
    images: tuple[bytes, ...] = field(repr=False)
    tls: Tls | None = None
    token: str | None = field(default=None, repr=False)
    insecure_token: bool = False
    model: str = ""
    callers: int = 8
    rate: float | None = None
    streams: int = 0
    fps: float = 5.0
    explainers: int = 0
    num_samples: int = 0
    duration_s: float = 10.0
    warmup_s: float = 1.0
    deadline_s: float | None = None
    explain_deadline_s: float = 120.0
    calls_each: int | None = None
    broken: float = 0.0
    processes: int = 1
    connections: int | None = None
    faces: FaceOptions | None = None
    seed: int = 0
    requests: tuple[bytes, ...] = field(default=(), repr=False)
    method: str | None = None

    def __post_init__(self) -> None:
        for name, least in {"callers": 0, "streams": 0, "explainers": 0, "num_samples": 0,
                            "processes": 1, "connections": 1}.items():  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidRequestError(name, f"{value}; expected at least {least}")
        for name in ("fps", "duration_s", "rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidRequestError(name, f"{value}; expected more than 0")
        if not self.images:
            raise InvalidRequestError("images", "none; expected at least one")
        if not 0 <= self.broken <= 1:
            raise InvalidRequestError("broken", f"{self.broken}; expected 0 to 1")
        if not (self.rate or self.closed_loops):
            raise InvalidRequestError("callers", "0, and neither a rate, streams nor explainers")

    @property
    def is_open(self) -> bool:
        """Whether Classify is called at a fixed rate, independent of responses."""
        return self.rate is not None

    @property
    def closed_loops(self) -> tuple[Kind, ...]:
        """One kind for each caller, camera and explainer; not the open loop."""
        return (
            *(Kind.CLASSIFY,) * (0 if self.is_open else self.callers),
            *(Kind.STREAM,) * self.streams,
            *(Kind.EXPLAIN,) * self.explainers,
        )

    @property
    def num_processes(self) -> int:
        """How many processes have something to do."""
        return self.processes if self.is_open else min(self.processes, len(self.closed_loops))

    def share(self, process: int) -> tuple[Kind, ...]:
        """The closed loops of one process, from 0; dealt in turns, so that none gets too many."""
        return self.closed_loops[process :: self.num_processes]


def draw_image(height: int, width: int, seed: int = 0) -> bytes:
    """A JPEG that takes about as long to decode as a photograph of that size.

    Smooth patches with some noise: at 224 px about 20 kB, as a photograph has.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + rng.normal(0, 9.0, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
