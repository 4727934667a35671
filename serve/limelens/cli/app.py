"""`limelens`: its commands, and how errors are printed.

Exit codes: 0 done, 1 could not, 2 wrong usage. With `--json`, one JSON document goes to stdout
and nothing else; messages for people go to stderr.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from limelens.cli import bench, classifying, demo, doctor, drift, serving, signing, similar, tokens
from limelens.cli.bulk.commands import bulk
from limelens.cli.camera import watching
from limelens.cli.console import showing
from limelens.cli.events.commands import events
from limelens.cli.explain import explaining
from limelens.cli.terminal import streams
from limelens.cli.terminal.helping import Command, Group
from limelens.cli.terminal.printing import err, print_notes
from limelens.cli.train import (
    drawing,
    evaluating,
    exporting,
    ingesting,
    reporting,
    training,
    tuning,
)
from limelens.cli.watching import watch
from limelens.serve.about import package_version
from limelens.serve.errors import LimelensError

app = typer.Typer(
    name="limelens",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train image classifiers, export each as one ONNX file, serve it over gRPC and explain "
    "every decision with LIME.",
    epilog="From images to an explanation: **limelens train** DATA --out RUN, "
    "**limelens export** RUN --name NAME, **limelens serve**, "
    "**limelens classify** IMAGE, **limelens explain** IMAGE.",
)

_COMMANDS = {
    "Train and export": (
        ingesting.ingest, reporting.inspect, training.train, evaluating.evaluate,
        evaluating.calibrate, exporting.export, tuning.tune_explanations,
        drawing.synthesize, drawing.scenes,
    ),
    "Serve and call": (
        serving.serve, tokens.token, signing.sign, classifying.classify, explaining.explain,
        watching.camera, watch.watch, similar.index, similar.similar, drift.drift, bench.bench,
        doctor.doctor, demo.demo,
    ),
}  # fmt: skip
for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        app.command(cls=Command, rich_help_panel=_panel)(_command)
app.add_typer(showing.console, rich_help_panel="Serve and call")
app.add_typer(events, rich_help_panel="Serve and call")
app.add_typer(bulk, rich_help_panel="Serve and call")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"limelens {package_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    del version
    print_notes()


def main() -> None:
    """Runs the command line; an error of writing stdout is reported last."""
    try:
        _run()
    finally:
        error = streams.flush()
        if error is not None:
            _say_stdout_failed(error)


def _say_stdout_failed(error: OSError) -> NoReturn:
    # The reader of the output may have left, as in `limelens … | head`.
    if not isinstance(error, BrokenPipeError):
        print(f"limelens: stdout: {error.strerror or error}", file=sys.stderr)
        streams.flush()
    sys.exit(1)


def _run() -> None:
    # gRPC's core would print what the errors below say: a taken port, a lost connection.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Pillow warns of odd images that it can read; the caller cannot repair them.
    warnings.filterwarnings("ignore", module="PIL")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character must not lose the output.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except LimelensError as error:
        err.print(escape(f"limelens: {error}"))
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f"limelens: {error.name} is not installed; pip install 'limelens[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(1)
    except OSError as error:
        unwritten = streams.flush()
        if unwritten is not None or isinstance(error, BrokenPipeError):
            _say_stdout_failed(unwritten or error)
        is_stdout = error.filename is None and error.errno in _OF_A_FULL_DISK
        where = "stdout: " if is_stdout else f"{error.filename}: " if error.filename else ""
        print(f"limelens: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)


_OF_A_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_MODULES_OF_EXTRAS = {
    "bulk": "pyarrow ray",
    "camera": "av",
    "console": "argon2 starlette uvicorn",
    "explain": "jinja2 scipy skimage sklearn",
    "serve-cpu": "cryptography grpc_health grpc_reflection jwt limits onnx onnxruntime "
    "prometheus_client pythonjsonlogger waitress",
    "watch": "aiomqtt pydantic pydantic_settings",
    "train": "cleanlab filelock httpx imagehash matplotlib onnxscript tenacity torch torchvision",
}
_EXTRAS = {name: extra for extra, names in _MODULES_OF_EXTRAS.items() for name in names.split()}
