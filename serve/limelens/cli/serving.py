"""`limelens serve`."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from limelens.cli import limits
from limelens.serve.errors import LimelensError

_MAX_PORT: Final = 65535


def serve(
    models: Annotated[
        Path | None,
        typer.Option(
            help="The model repository: NAME/VERSION/model.onnx.",
            show_default="./models, else the models that come with limelens",
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8500",
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="cuda refuses to start where there is none."),
    ] = "auto",
    num_threads: Annotated[
        int | None,
        typer.Option(min=1, help="Of the CPU.", show_default="one for each core"),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="The server's chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Ask clients for certificates signed by this one, PEM.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plaintext beyond this machine.")
    ] = False,
    reflection: Annotated[
        bool, typer.Option("--reflection/--no-reflection", help="Let clients ask for the contract.")
    ] = True,
    grace_s: Annotated[
        float, typer.Option(min=0.0, help="Seconds that calls may go on after SIGTERM.")
    ] = 10.0,
    reload_s: Annotated[
        float, typer.Option(min=0.0, help="Look for new versions this often; 0: never.")
    ] = 0.0,
    max_batch_size: limits.MaxBatchSize = 32,
    max_queue: limits.MaxQueue = 256,
    max_images: limits.MaxImages = 64,
    max_pixels: limits.MaxPixels = 50_000_000,
    max_samples: limits.MaxSamples = 10_000,
    max_message_bytes: limits.MaxMessageBytes = 32 * 1024 * 1024,
    max_waiting_bytes: limits.MaxWaitingBytes = 256 * 1024 * 1024,
    max_calls: limits.MaxCalls = 2048,
    max_streams: limits.MaxStreams = 1000,
    max_explanations: limits.MaxExplanations = 1,
    max_waiting_explanations: limits.MaxWaitingExplanations = 8,
    stream_idle_s: limits.StreamIdleS = 120.0,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Of the log on stderr.")
    ] = "warning",
) -> None:
    """Serves the models of a folder over gRPC until SIGTERM or Ctrl-C.

    One line on stdout says when it is ready: what is served, where, and on which provider.
    """
    from limelens.serve.requests import Limits
    from limelens.serve.server import ServerConfig, Tls
    from limelens.serve.server import serve as run_server
    from limelens.serve.service import ServiceSettings

    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key are given together")
    if tls_client_ca is not None and tls_cert is None:
        raise typer.BadParameter("--tls-client-ca needs --tls-cert and --tls-key")
    for file in (tls_cert, tls_key, tls_client_ca):
        if file is not None and not file.is_file():
            raise LimelensError(f"{file} is no file; expected a PEM file")
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _MAX_PORT:
        raise typer.BadParameter(f"--listen {listen!r}; expected HOST:PORT")
    tls = Tls(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
    config = ServerConfig(
        models=models or default_models(),
        listen=listen,
        device=device,
        num_threads=num_threads,
        tls=tls,
        insecure=insecure,
        reflection=reflection,
        grace_s=grace_s,
        reload_s=reload_s,
        max_message_bytes=max_message_bytes,
        max_calls=max_calls,
        service=ServiceSettings(
            limits=Limits(max_images, max_pixels, max_samples),
            max_queue=max_queue,
            max_waiting_bytes=max_waiting_bytes,
            max_batch_size=max_batch_size,
            max_streams=max_streams,
            stream_idle_s=stream_idle_s,
            max_explanations=max_explanations,
            max_waiting_explanations=max_waiting_explanations,
        ),
    )
    raise typer.Exit(run_server(config, lambda line: print(line, flush=True)))


def default_models() -> Path:
    """`./models` where it is, else the models that come with the package.

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
        # In a wheel beside the code; in a checkout at the top.
        for packaged in (package / "models", package.parents[2] / "models"):
            if packaged.is_dir():
                return packaged
    raise LimelensError("no ./models here and none packaged; name a folder with --models")
