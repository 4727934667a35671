"""`limelens sign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limelens.cli.options import option
from limelens.cli.terminal.printing import AsJson, print_json


def sign(
    bundle: Annotated[
        Path, typer.Argument(help="model.onnx, or the folder of a version that holds it.")
    ],
    key: Annotated[
        Path, option("Private key of an elliptic curve, without a password.", metavar="PRIVATE.pem")
    ],
    as_json: AsJson = False,
) -> None:
    """Signs a bundle, for servers that require signatures.

    The signature of exactly this file is written beside it as `model.sig`. Copy both together:
    **limelens serve --require-signature** PUBLIC.pem refuses bundles without one.
    """
    from limelens.serve.bundle.signatures import sign_bundle

    signature = sign_bundle(bundle, key)
    if as_json:
        print_json({"path": str(signature.with_name("model.onnx")), "signature": str(signature)})
    else:
        print(f"signed: {signature}")
