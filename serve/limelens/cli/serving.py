"""`limelens serve`, and the default model repository."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from limelens.cli.options import limit_options, option, settings_of
from limelens.cli.terminal import streams
from limelens.serve.access.config import AccessConfig, JwtConfig, Tls
from limelens.serve.errors import InvalidRequestError, LimelensError
from limelens.serve.rpc.server_config import DriftSettings, Limits, ServerConfig, ServiceSettings


def serve(
    models: Annotated[
        Path | None,
        option(
            "The model repository: NAME/VERSION/model.onnx.",
            show_default="./models, else the models that come with limelens",
        ),
    ] = None,
    listen: Annotated[
        str,
        option(
            "The address to listen on; port 0 takes a free one. Or unix:PATH, a socket of "
            "this machine.",
            metavar="HOST:PORT",
        ),
    ] = ServerConfig.listen,
    device: Annotated[
        str,
        option(
            "cuda refuses to start without a GPU; cuda:1 uses that GPU, cuda:0,1 both, each "
            "in its own process.",
            metavar="auto|cpu|cuda|cuda:N[,N…]",
        ),
    ] = ServerConfig.device,
    processes: Annotated[
        int | None,
        option(
            "Server processes that share the port, each with its part of the cores; 1 is "
            "this process alone.",
            min=1,
            show_default="1 up to 4 cores, then one for every 2",
        ),
    ] = None,
    device_process: Annotated[
        bool,
        option(
            "Have one more process own each GPU and run the models for all others, which hand it "
            "images.",
            "--device-process",
        ),
    ] = ServerConfig.device_process,
    tf32: Annotated[
        bool,
        option(
            "Let a GPU round factors to 10 bits (TF32): faster, but probabilities change a little.",
            "--tf32",
        ),
    ] = False,
    num_threads: Annotated[
        int | None,
        option("CPU threads of all processes together.", min=1, show_default="one for each core"),
    ] = None,
    tls_cert: Annotated[Path | None, option("The server's certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, option("Its private key, PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None, option("Require client certificates signed by this authority, PEM.")
    ] = None,
    insecure: Annotated[bool, option("Allow plaintext beyond this machine.", "--insecure")] = False,
    reflection: Annotated[
        bool, option("Let clients read the contract.", "--reflection/--no-reflection")
    ] = ServerConfig.reflection,
    max_connection_age_s: Annotated[
        float,
        option(
            "Ask clients to connect anew after so many seconds, so that servers that were added "
            "get their share. Calls and streams go on.",
            min=0.0,
            max=1_000_000.0,
            show_default="never",
        ),
    ] = ServerConfig.max_connection_age_s,
    grace_s: Annotated[
        float, option("Seconds that calls may go on after SIGTERM.", min=0.0)
    ] = ServerConfig.grace_s,
    reload: Annotated[
        Literal["watch", "request", "off"],
        option(
            "Look for new versions every --reload-s seconds, only on request (by SIGHUP or a "
            "call of RepositoryModelLoad), or not at all."
        ),
    ] = ServerConfig.reload,
    reload_s: Annotated[
        float, option("With watch: seconds between looks; 0: only on request.", min=0.0)
    ] = ServerConfig.reload_s,
    versions: Annotated[
        list[str] | None,
        option(
            "Versions to load: all, latest, a number of the newest, or NAME=VERSION[,…] to "
            "pin a model's versions. May be repeated.",
            metavar="RULE",
            show_default="all",
        ),
    ] = None,
    hold_back: Annotated[
        bool,
        option(
            "Do not let a version take over that is clearly worse than the one that it would "
            "replace, on the golden images in their bundles.",
            "--hold-back",
        ),
    ] = False,
    hold_back_images: Annotated[
        Path | None,
        option(
            "As --hold-back, on these images instead: a folder of them for each label.",
            metavar="FOLDER",
        ),
    ] = None,
    require_signature: Annotated[
        list[Path] | None,
        option(
            "Serve only bundles that `limelens sign` signed with the private key of this "
            "public key. May be repeated.",
            metavar="PUBLIC_KEY.pem",
        ),
    ] = None,
    face_detector: Annotated[
        str,
        option(
            "What finds faces, for calls that ask for them: the detector that comes with "
            "limelens, CenterFace (needs limelens[faces]), nothing, or the bundle of another.",
            metavar="default|centerface|none|PATH",
        ),
    ] = ServerConfig.face_detector,
    health_listen: Annotated[
        str | None,
        option(
            "Also serve the health alone here, in plaintext, for probes without TLS.",
            metavar="HOST:PORT",
        ),
    ] = None,
    tokens: Annotated[
        Path | None, option("The clients that may call, TOML; `limelens token` adds one.")
    ] = None,
    jwt_key: Annotated[
        Path | None, option("Accept tokens signed by this issuer: its public key, PEM or JWKS.")
    ] = None,
    jwt_issuer: Annotated[str | None, option("The iss that they must have.")] = None,
    jwt_audience: Annotated[str | None, option("The aud that they must contain.")] = None,
    jwt_rights_claim: Annotated[
        str, option("The claim that holds their rights.")
    ] = JwtConfig.rights_claim,
    rate_limit: Annotated[
        str | None,
        option(
            "Limit of each client, such as 100/second. Each image and each sample of an "
            "explanation counts as a call.",
            metavar="N/TIME",
            show_default="none",
        ),
    ] = None,
    max_calls_per_client: Annotated[
        int | None,
        option("Calls and streams of each client at a time.", min=1, show_default="no limit"),
    ] = None,
    max_waiting_per_client: Annotated[
        int,
        option(
            "Further calls of each client that wait instead of being refused; needs "
            "--max-calls-per-client.",
            min=0,
        ),
    ] = AccessConfig.max_waiting_per_client,
    production: Annotated[
        bool,
        option(
            "Refuse to start if anybody may call, or with plaintext beyond this machine; no "
            "reflection.",
            "--production",
        ),
    ] = False,
    max_batch_size: limit_options.MaxBatchSize = ServiceSettings.max_batch_size,
    max_queue: limit_options.MaxQueue = ServiceSettings.max_queue,
    max_images: limit_options.MaxImages = Limits.max_images,
    max_pixels: limit_options.MaxPixels = Limits.max_pixels,
    max_decode_s: limit_options.MaxDecodeS = Limits.max_decode_s,
    max_samples: limit_options.MaxSamples = Limits.max_samples,
    max_message_bytes: limit_options.MaxMessageBytes = ServerConfig.max_message_bytes,
    max_waiting_bytes: limit_options.MaxWaitingBytes = ServiceSettings.max_waiting_bytes,
    max_calls: limit_options.MaxCalls = ServerConfig.max_calls,
    max_streams: limit_options.MaxStreams = ServiceSettings.max_streams,
    max_explanations: limit_options.MaxExplanations = ServiceSettings.max_explanations,
    max_waiting_explanations: limit_options.MaxWaitingExplanations = (
        ServiceSettings.max_waiting_explanations
    ),
    stream_idle_s: limit_options.StreamIdleS = ServiceSettings.stream_idle_s,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], option("Level of the log on stderr.")
    ] = "warning",
    log_format: Annotated[
        Literal["text", "json"], option("Format of the log on stderr.")
    ] = ServerConfig.log_format,
    access_log: Annotated[
        bool,
        option("Log successful calls at info, not debug; needs --log-level info.", "--access-log"),
    ] = False,
    http: Annotated[
        str | None,
        option(
            "Serve /metrics, /healthz and /readyz here, such as 127.0.0.1:8501.",
            metavar="HOST:PORT",
            show_default="nowhere",
        ),
    ] = None,
    drift_reference: Annotated[
        list[str] | None,
        option(
            "Show on /metrics whether what a model sees is unlike this index, which limelens index "
            "wrote. May be repeated, for other models.",
            metavar="[NAME=]INDEX",
        ),
    ] = None,
    drift_window: Annotated[
        int, option("With --drift-reference: how many of the last images are compared.", min=20)
    ] = DriftSettings.window,
    drift_every_s: Annotated[
        float,
        option("With --drift-reference: look at one image in so many seconds.", min=0.0),
    ] = DriftSettings.every_s,
    insecure_http: Annotated[
        bool, option("Allow --http beyond this machine.", "--insecure-http")
    ] = False,
    trace_to: Annotated[
        str | None,
        option(
            "Send traces there by OTLP over gRPC. `otlp` takes the address from the variable "
            "OTEL_EXPORTER_OTLP_ENDPOINT, `console` is stderr. Needs limelens[tracing].",
            metavar="HOST:PORT",
            show_default="nowhere",
        ),
    ] = None,
) -> None:
    """Serves the models of a repository over gRPC until SIGTERM or Ctrl-C.

    Once it is ready it prints one line: the models, the address and the provider. SIGHUP makes it
    look for new versions at once.
    """
    given = dict(locals())
    if tls_cert is not None and os.environ.get("GRPC_VERBOSITY") == "NONE":
        # Only gRPC's core knows why a handshake failed. It writes it to stderr only if this is not
        # set at all, and reads it when it is loaded, below.
        del os.environ["GRPC_VERBOSITY"]
    from limelens.serve.addresses import is_unix, parse_address
    from limelens.serve.observing.logs import set_up_logs
    from limelens.serve.processes.layout import default_processes
    from limelens.serve.repository.version_policy import parse_versions

    level = logging.getLevelNamesMapping()[log_level.upper()]
    set_up_logs(level, log_format)
    if access_log and log_level not in ("debug", "info"):
        raise typer.BadParameter(
            f"--access-log logs calls at info, and --log-level {log_level} leaves those out; "
            "add --log-level info"
        )
    for flag, address in (
        ("--listen", listen),
        ("--http", http),
        ("--health-listen", health_listen),
    ):
        if address is not None and not (flag == "--listen" and is_unix(address)):
            try:
                parse_address(address)
            except ValueError as error:
                raise typer.BadParameter(f"{flag} {error}") from None
    if insecure_http and http is None:
        raise typer.BadParameter("--insecure-http needs --http HOST:PORT")
    if drift_reference and http is None:
        raise typer.BadParameter("--drift-reference needs --http HOST:PORT: it shows metrics")
    if max_waiting_per_client and max_calls_per_client is None:
        raise typer.BadParameter(
            "--max-waiting-per-client needs --max-calls-per-client: without that no call waits"
        )
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key are given together")
    if tls_client_ca is not None and tls_cert is None:
        raise typer.BadParameter("--tls-client-ca needs --tls-cert and --tls-key")
    for file in (tls_cert, tls_key, tls_client_ca):
        if file is not None and not file.is_file():
            raise LimelensError(f"{file} is no file; expected a PEM file")
    if len({jwt_key is None, jwt_issuer is None, jwt_audience is None}) > 1:
        raise typer.BadParameter("--jwt-key, --jwt-issuer and --jwt-audience are given together")
    jwt = (
        JwtConfig(jwt_key, jwt_issuer, jwt_audience, jwt_rights_claim)
        if jwt_key and jwt_issuer is not None and jwt_audience is not None
        else None
    )
    try:
        if processes is None:
            processes = default_processes(listen, device, num_threads)
        wanted = parse_versions(versions or [])
    except InvalidRequestError as error:
        raise typer.BadParameter(f"--{error}") from None
    tls = Tls(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
    service = settings_of(ServiceSettings, given)
    changed = {
        "models": models or default_models(),
        "processes": processes,
        "tls": tls,
        "access": AccessConfig(jwt=jwt, **settings_of(AccessConfig, given)),
        "versions": wanted,
        "public_keys": tuple(require_signature or ()),
        "log_level": level,
        "drift": DriftSettings(
            tuple(_drift_reference(one) for one in drift_reference or ()),
            drift_window,
            drift_every_s,
        ),
        "service": ServiceSettings(limits=Limits(**settings_of(Limits, given)), **service),
    }
    config = ServerConfig(**settings_of(ServerConfig, given) | changed)
    try:
        config.check()
    except InvalidRequestError as error:
        flag = error.field.replace("_", "-")
        raise typer.BadParameter(f"--{flag}: {error.description}") from None
    code = _serve(config)
    streams.flush()
    # Python's own exit would wait for models that run, handle signals while it cleans up, and
    # unload libraries under their threads.
    os._exit(code)


def _serve(config: ServerConfig) -> int:
    def announce(line: str) -> None:
        try:
            print(line, flush=True)
        except OSError:
            streams.give_up(sys.stdout)
            raise

    if config.is_supervised:
        # The supervisor loads no more than it needs.
        from limelens.serve.processes.supervisor import supervise

        return supervise(config, announce)
    from limelens.serve.run_server import serve

    return serve(config, announce)


def _drift_reference(word: str) -> tuple[str, Path]:
    """The name, which may be empty, and the file of `[NAME=]INDEX`."""
    name, is_named, path = word.partition("=")
    return (name, Path(path)) if is_named and "/" not in name else ("", Path(word))


def default_models() -> Path:
    """`./models` if it is there, otherwise the models that come with the package.

    Raises:
        LimelensError: Neither is there.
    """
    here = Path("models")
    return here if here.is_dir() else packaged_models()


def packaged_models() -> Path:
    """The models that come with the package.

    Raises:
        LimelensError: There are none.
    """
    spec = importlib.util.find_spec("limelens.serve")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        # A wheel has them beside the code, a checkout at its top.
        for packaged in (package / "models", package.parents[2] / "models"):
            if packaged.is_dir():
                return packaged
    raise LimelensError("no ./models here and none packaged; name a folder with --models")
