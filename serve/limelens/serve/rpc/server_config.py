"""A server's settings, as data.

It loads neither gRPC nor onnx: a process that only starts servers stays small, and the command line
takes its defaults from here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from limelens.serve.access.config import AccessConfig, Tls
from limelens.serve.addresses import is_loopback, is_unix, parse_address
from limelens.serve.errors import AccessPolicyError, InvalidRequestError, ListenError
from limelens.serve.faces.options import DEFAULT_DETECTOR
from limelens.serve.image.limits import MAX_DECODE_S, MAX_PIXELS, DecodeLimits
from limelens.serve.repository.version_policy import ALL, VersionPolicy
from limelens.serve.rpc.transport.listening import check_listen

if TYPE_CHECKING:
    from limelens.serve.observing.logs import LogFormat
    from limelens.serve.repository.reload import Reload

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Args:
        max_images: Images in one request.
        max_pixels: Height times width of one image.
        max_samples: Images that the model runs for one explanation.
        max_decode_s: CPU seconds for decoding one image, in addition to a share for its bytes.
    """

    max_images: int = 64
    max_pixels: int = MAX_PIXELS
    max_samples: int = 10_000
    max_decode_s: float = MAX_DECODE_S

    @cached_property
    def decoding(self) -> DecodeLimits:
        """What decoding one image may cost."""
        return DecodeLimits(self.max_pixels, self.max_decode_s)


@dataclass(frozen=True)
class ServiceSettings:
    """How much work a server accepts.

    Args:
        limits: What one request may ask for.
        max_queue: How many images may wait.
        max_waiting_bytes: Bytes of all requests that wait or are worked on.
        max_batch_size: Images in one run on a GPU.
        max_streams: Open camera streams.
        stream_idle_s: Ends a stream that neither sends nor reads for this long.
        max_explanations: Explanations that run at a time.
        max_waiting_explanations: Explanations that may wait.
    """

    limits: Limits = field(default_factory=Limits)
    max_queue: int = 256
    max_waiting_bytes: int = 256 * 1024 * 1024
    max_batch_size: int = 64
    max_streams: int = 1000
    stream_idle_s: float = 120.0
    max_explanations: int = 1
    max_waiting_explanations: int = 8

    @property
    def request_limits(self) -> Limits:
        """`limits`, with at most as many images in a request as fit in the queue."""
        limits = self.limits
        return replace(limits, max_images=max(1, min(limits.max_images, self.max_queue)))


@dataclass(frozen=True)
class DriftSettings:
    """Which models are watched for drift, and how closely.

    Args:
        references: Of each model its name, empty for the index's own, and the file of an index.
        window: How many of the last images are compared.
        every_s: Of images that come faster, one is looked at in so many seconds.
    """

    references: tuple[tuple[str, Path], ...] = ()
    window: int = 500
    every_s: float = 1.0


@dataclass(frozen=True)
class ServerConfig:
    """How a server is set up.

    Args:
        models: The model repository.
        listen: `HOST:PORT`; port 0 takes a free one.
        device: `auto`, `cpu`, `cuda`, or GPUs by number, such as `cuda:1` or `cuda:0,1`; see
            `limelens.serve.bundle.devices`.
        tf32: Whether a GPU may round the inputs of products to 10 bits.
        num_threads: CPU threads of all processes together; None is one per usable core.
        tls: Certificates; None is plaintext.
        insecure: Whether other machines may connect in plaintext.
        reflection: Whether clients may ask for the contract.
        max_message_bytes: Limit on one request or response.
        max_calls: Limit on calls and streams in flight, health watchers included.
        max_connection_age_s: When to ask a client to connect anew, within a tenth, so that servers
            that were added later get their share; its calls in flight go on. 0 is never.
        grace_s: How long calls in flight may go on after a signal to stop.
        reload: Whether to look for new versions every `reload_s`, on request only (SIGHUP,
            `Server.reload` or RepositoryModelLoad), or never.
        reload_s: How often to look; 0 is on request only.
        versions: Which versions of a model to load.
        hold_back: Whether a version that is clearly worse than the one that it would replace is
            not served.
        hold_back_images: As `hold_back`, judged by a folder of images for each label; None judges
            by the golden images in the bundles.
        public_keys: PEM files; if set, only bundles signed with one of these keys are served.
        face_detector: `default`, `centerface`, `none`, or the path of a detector's bundle; see
            `limelens.serve.faces.detector.load_detector`.
        health_listen: `HOST:PORT` for health alone, in plaintext, for probes that speak no TLS such
            as those of Kubernetes; None is none.
        service: How much work the server accepts.
        access: Who may call.
        http: `HOST:PORT` of metrics and probes; None is none.
        drift: Which models are watched for drift; needs `http`.
        insecure_http: Whether other machines may connect to `http`.
        trace_to: Where to send traces, see `tracing_to`; None is nowhere.
        access_log: Whether to log successful calls at INFO instead of DEBUG.
        processes: How many processes share the address; 1 is this process alone.
        device_process: Whether another process owns each device and runs the models for these.
        log_level: Log level of the other processes; the caller sets this process's own.
        log_format: Log format of the other processes.
    """

    models: Path
    listen: str = "127.0.0.1:8500"
    device: str = "auto"
    tf32: bool = False
    num_threads: int | None = None
    tls: Tls | None = None
    insecure: bool = False
    reflection: bool = True
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_calls: int = 2048
    max_connection_age_s: float = 0.0
    grace_s: float = 10.0
    reload: Reload = "watch"
    reload_s: float = 2.0
    versions: VersionPolicy = ALL
    hold_back: bool = False
    hold_back_images: Path | None = None
    public_keys: tuple[Path, ...] = ()
    face_detector: str = DEFAULT_DETECTOR
    health_listen: str | None = None
    service: ServiceSettings = field(default_factory=ServiceSettings)
    access: AccessConfig = field(default_factory=AccessConfig)
    http: str | None = None
    insecure_http: bool = False
    drift: DriftSettings = field(default_factory=DriftSettings)
    trace_to: str | None = None
    access_log: bool = False
    processes: int = 1
    device_process: bool = False
    log_level: int = logging.WARNING
    log_format: LogFormat = "text"

    @property
    def is_supervised(self) -> bool:
        """Whether several processes serve, under one that supervises them."""
        return self.processes > 1 or self.device_process

    @property
    def sends_tokens_in_plaintext(self) -> bool:
        """Whether tokens travel between machines in plaintext."""
        shows_tokens = self.access.tokens is not None or self.access.jwt is not None
        return self.tls is None and shows_tokens and not is_loopback(self.listen)

    def check(self) -> None:
        """Refuses unsafe or contradictory settings, before anything is loaded."""
        from limelens.serve.bundle.devices import check_driver, parse_devices  # loads onnx

        devices = parse_devices(self.device)
        if self.processes < len(devices):
            raise InvalidRequestError(
                "processes",
                f"{self.processes} cannot use the {len(devices)} devices of {self.device!r}; "
                "expected at least one process for each",
            )
        if self.num_threads is not None and self.num_threads < self.processes:
            raise InvalidRequestError(
                "num_threads",
                f"{self.num_threads} for {self.processes} processes; expected at least one for "
                "each: they are those of all processes together",
            )
        if self.hold_back_images is not None and not self.hold_back_images.is_dir():
            raise InvalidRequestError(
                "hold_back_images",
                f"{self.hold_back_images} is no folder; expected one with a folder of images for "
                "each label",
            )
        if self.is_supervised and is_unix(self.listen):
            without = ", no --device-process" if self.device_process else ""
            raise ListenError(
                f"several processes cannot listen on {self.listen}: a socket of the file system "
                f"has one listener; expected HOST:PORT, or one process (--processes 1{without})"
            )
        access, tls = self.access, self.tls
        has_client_ca = tls is not None and tls.client_ca is not None
        if access.production and not (access.tokens or access.jwt or has_client_ca):
            raise AccessPolicyError(
                "--production, and nothing says who may call; give a file of clients (--tokens), "
                "an issuer's key (--jwt-key, --jwt-issuer, --jwt-audience) or a client CA "
                "(--tls-client-ca)"
            )
        check_listen(self.listen, tls, production=access.production, insecure=self.insecure)
        if self.health_listen is not None:
            try:
                parse_address(self.health_listen)
            except ValueError as error:
                raise ListenError(f"for the health, {error}") from error
        check_driver(self.device)
