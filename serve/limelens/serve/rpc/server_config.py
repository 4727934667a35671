"""How a server is set up, as data: what its operator may say, and nothing that acts on it.

It loads neither gRPC nor onnxruntime, so that a process which only starts servers stays small.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from limelens.serve.access.config import AccessConfig, Tls
from limelens.serve.access.policy import check_production
from limelens.serve.addresses import is_loopback, is_unix
from limelens.serve.bundle.devices import parse_devices
from limelens.serve.errors import InvalidRequestError, ListenError
from limelens.serve.observing.logs import LogFormat
from limelens.serve.repository.reload import Reload
from limelens.serve.repository.version_policy import ALL, VersionPolicy
from limelens.serve.rpc.requests.classify import Limits
from limelens.serve.rpc.transport.listening import check_health_listen, check_listen

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True)
class ServiceSettings:
    """How much the service takes on.

    Args:
        limits: What one request may ask for.
        max_queue: Images that wait.
        max_waiting_bytes: Of the images of all requests that wait or are worked on.
        max_batch_size: Images joined into one run on a GPU.
        max_streams: Cameras at a time.
        stream_idle_s: A stream that sends or reads nothing for so long is ended.
        max_explanations: Explanations at a time.
        max_waiting_explanations: Explanations that wait.
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
        """`limits`, with no more images in a request than the queue can ever take."""
        limits = self.limits
        return replace(limits, max_images=max(1, min(limits.max_images, self.max_queue)))


@dataclass(frozen=True)
class ServerConfig:
    """How a server is set up.

    Args:
        models: The folder of models.
        listen: `HOST:PORT`; port 0 takes a free one.
        device: `auto`, `cpu`, `cuda`, or GPUs by number, such as `cuda:1` or `cuda:0,1`; see
            `limelens.serve.bundle.devices`.
        tf32: Whether a GPU may round what it multiplies to 10 bits.
        num_threads: Of the CPU, over all processes; None is one for each core that may be used.
        tls: Certificates; None is plaintext.
        insecure: Whether plaintext may be spoken beyond this machine.
        reflection: Whether clients may ask for the contract.
        max_message_bytes: Of one request or answer.
        max_calls: Calls and streams at a time, those about the server's health included; more are
            refused.
        grace_s: How long calls under way may go on when the server is told to stop.
        reload: Whether new versions are found by looking every `reload_s`, only when asked (by
            SIGHUP, `Server.reload` or RepositoryModelLoad), or not at all.
        reload_s: How often the folder is looked at; 0 is only when asked.
        versions: Which versions of a model are loaded.
        public_keys: Only bundles signed by the owner of one of these keys are served; PEM files.
            Empty serves unsigned ones too.
        health_listen: `HOST:PORT` where the health alone is told too, in plaintext: who probes
            speaks no TLS, such as Kubernetes. None is nowhere.
        service: How much is taken on.
        access: Who may call.
        http: `HOST:PORT` of metrics and probes; None is nowhere.
        insecure_http: Whether other machines may reach that.
        trace_to: Where traces go, see `tracing_to`; None is nowhere.
        access_log: Whether calls that went well are logged at INFO too, not only at DEBUG.
        processes: How many servers share the address; 1 is this process alone.
        log_level: The least that the other processes log; this one's log is its caller's business.
        log_format: How they do.
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
    grace_s: float = 10.0
    reload: Reload = "watch"
    reload_s: float = 2.0
    versions: VersionPolicy = ALL
    public_keys: tuple[Path, ...] = ()
    health_listen: str | None = None
    service: ServiceSettings = field(default_factory=ServiceSettings)
    access: AccessConfig = field(default_factory=AccessConfig)
    http: str | None = None
    insecure_http: bool = False
    trace_to: str | None = None
    access_log: bool = False
    processes: int = 1
    log_level: int = logging.WARNING
    log_format: LogFormat = "text"

    @property
    def sends_tokens_in_plaintext(self) -> bool:
        """Whether tokens that callers show can be read on their way from other machines."""
        shows_tokens = self.access.tokens is not None or self.access.jwt is not None
        return self.tls is None and shows_tokens and not is_loopback(self.listen)

    def check(self) -> None:
        """Refuses, before anything is loaded or begun, to listen where nobody should.

        Raises:
            ListenError: An address is none, or may not be listened on.
            AccessPolicyError: It is not as safe as `--production` demands.
            InvalidRequestError: Processes, devices and threads do not go together.
        """
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
        if self.processes > 1 and is_unix(self.listen):
            raise ListenError(
                f"{self.processes} processes cannot listen on {self.listen}: a socket of the file "
                "system has one listener; expected HOST:PORT, or one process (--processes 1)"
            )
        access, tls = self.access, self.tls
        check_production(access, has_client_ca=tls is not None and tls.client_ca is not None)
        check_listen(self.listen, tls, production=access.production, insecure=self.insecure)
        check_health_listen(self.health_listen)
