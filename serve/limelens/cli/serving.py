"""`limelens serve`."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

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
    health_listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Tell the health, and nothing else, here too, in plaintext: for probes that speak "
            "no TLS.",
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(help="The clients that may call, TOML; `limelens token` adds one."),
    ] = None,
    jwt_key: Annotated[
        Path | None,
        typer.Option(help="Accept tokens signed by this issuer: its public key, PEM or JWKS."),
    ] = None,
    jwt_issuer: Annotated[str | None, typer.Option(help="What their iss must be.")] = None,
    jwt_audience: Annotated[str | None, typer.Option(help="What their aud must hold.")] = None,
    jwt_rights_claim: Annotated[str, typer.Option(help="Where their rights stand.")] = "scope",
    rate_limit: Annotated[
        str | None,
        typer.Option(
            metavar="N/TIME", help="Calls of each client, such as 100/second.", show_default="none"
        ),
    ] = None,
    max_calls_per_client: Annotated[
        int | None,
        typer.Option(min=1, help="Its calls and streams at a time.", show_default="no limit"),
    ] = None,
    max_waiting_per_client: Annotated[
        int, typer.Option(min=0, help="Its further calls that wait, not refused.")
    ] = 0,
    production: Annotated[
        bool,
        typer.Option(
            "--production",
            help="Refuse to start where anybody may call or plaintext is spoken beyond this "
            "machine; no reflection.",
        ),
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Of the log on stderr.")
    ] = "warning",
) -> None:
    """Serves the models of a folder over gRPC until SIGTERM or Ctrl-C.

    One line on stdout says when it is ready: what is served, where, and on which provider.
    """
    if tls_cert is not None and os.environ.get("GRPC_VERBOSITY") == "NONE":
        # Why a handshake failed nobody but gRPC's core knows. It says so on stderr only where
        # this is not set at all, and reads it when it is loaded, below.
        del os.environ["GRPC_VERBOSITY"]
    from limelens.serve.access.config import AccessConfig, JwtConfig
    from limelens.serve.server import ServerConfig, Tls
    from limelens.serve.server import serve as run_server

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
    if len({jwt_key is None, jwt_issuer is None, jwt_audience is None}) > 1:
        raise typer.BadParameter("--jwt-key, --jwt-issuer and --jwt-audience are given together")
    jwt = (
        JwtConfig(jwt_key, jwt_issuer, jwt_audience, jwt_rights_claim)
        if jwt_key and jwt_issuer is not None and jwt_audience is not None
        else None
    )
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
        health_listen=health_listen,
        access=AccessConfig(
            tokens=tokens,
            jwt=jwt,
            rate_limit=rate_limit,
            max_calls_per_client=max_calls_per_client,
            max_waiting_per_client=max_waiting_per_client,
            production=production,
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
