"""What load is put on a server. It knows numbers and images, and nothing of how it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from limelens.serve.client import Tls
from limelens.serve.errors import InvalidRequestError

CLASSIFY: Final = "/limelens.v1.ClassifierService/Classify"


class Kind(StrEnum):
    """What is asked."""

    CLASSIFY = "classify"
    STREAM = "stream"
    EXPLAIN = "explain"


@dataclass(frozen=True)
class LoadPlan:
    """What is sent to a server, by how many, for how long.

    Args:
        server: `HOST:PORT`.
        images: Encoded images, sent in turns; at least one.
        tls: As for `Client`; None is plaintext.
        token: What every call shows; None is nothing.
        insecure_token: Whether the token may be sent in plaintext to other machines.
        model: Which one is asked; empty is the only one.
        callers: Of Classify, each of which asks again as soon as it is answered (closed loop).
        rate: Calls of Classify a second, sent whether or not others are answered (open loop, at
            random intervals); takes the place of callers. None is closed loop.
        streams: Cameras.
        fps: Frames a second of each camera, sent at their times.
        explainers: Callers of Explain, each of which asks again as soon as it is answered.
        num_samples: Of each explanation; 0 is the server's default.
        duration_s: For how long calls are begun and counted.
        warmup_s: For how long the same is done before, uncounted.
        deadline_s: Of each call of Classify; None is none.
        explain_deadline_s: Of each call of Explain.
        calls_each: How many calls a caller makes at most; None is as many as there is time for.
        broken: Share of calls of Classify whose image is cut off, 0 to 1.
        processes: That send; no more are started than there is something to do for.
        connections: How many callers, cameras and explainers share, at least one for each
            process; None is one for up to 16 of them. A server of several processes gives each
            connection to one of them.
        method: The path of gRPC's method that callers ask in place of Classify.
        requests: Whole messages for it, sent in turns in place of images; empty sends images.
        seed: For intervals and for which images are broken.

    Raises:
        InvalidRequestError: A number that cannot be.
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
    method: str = CLASSIFY
    requests: tuple[bytes, ...] = field(default=(), repr=False)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.images:
            raise InvalidRequestError("images", "none; expected at least one")
        for name in ("callers", "streams", "explainers", "num_samples"):
            if getattr(self, name) < 0:
                raise InvalidRequestError(name, f"{getattr(self, name)}; expected at least 0")
        for name in ("fps", "duration_s"):
            if not getattr(self, name) > 0:
                raise InvalidRequestError(name, f"{getattr(self, name)}; expected more than 0")
        if self.rate is not None and not self.rate > 0:
            raise InvalidRequestError("rate", f"{self.rate}; expected more than 0")
        if not 0 <= self.broken <= 1:
            raise InvalidRequestError("broken", f"{self.broken}; expected 0 to 1")
        for name in ("processes", "connections"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InvalidRequestError(name, f"{count}; expected at least 1")
        if not (self.callers or self.rate or self.streams or self.explainers):
            raise InvalidRequestError("callers", "0, and neither a rate, streams nor explainers")

    @property
    def is_open(self) -> bool:
        """Whether Classify is asked at a rate, whatever the answers do."""
        return self.rate is not None

    @property
    def num_closed(self) -> int:
        """Callers, cameras and explainers together; not the open loop."""
        callers = 0 if self.is_open else self.callers
        return callers + self.streams + self.explainers

    @property
    def num_processes(self) -> int:
        """How many processes there is something to do for."""
        return self.processes if self.is_open else min(self.processes, self.num_closed)

    def share(self, process: int) -> tuple[Kind, ...]:
        """What one process does in closed loops: one kind for each caller, camera and explainer.

        They are dealt in turns, so that no process is left without one while another has several.

        Args:
            process: From 0.
        """
        callers = 0 if self.is_open else self.callers
        everyone = (
            *(Kind.CLASSIFY,) * callers,
            *(Kind.STREAM,) * self.streams,
            *(Kind.EXPLAIN,) * self.explainers,
        )
        return everyone[process :: self.num_processes]
