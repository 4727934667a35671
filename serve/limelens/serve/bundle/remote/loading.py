"""Loads a bundle into the process that owns a device, or into the one that replaces it meanwhile.

It does not know what proves that a bundle works.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from limelens.serve.bundle.devices import DEVICE_PROCESS
from limelens.serve.bundle.folder import version_of
from limelens.serve.bundle.metadata import Metadata
from limelens.serve.bundle.remote.device_client import DeviceGoneError, device_client
from limelens.serve.bundle.remote.protocol import OpenModel
from limelens.serve.bundle.remote.runs import RemoteRuns
from limelens.serve.bundle.session import Bundle, ExplanationRows
from limelens.serve.errors import BundleError

_STARTING_S: Final = 60.0
"""How long to wait for the process that owns a device."""
_MOST_LOST: Final = 2
"""A model is refused once that process ended so often while it loaded it."""
_log = logging.getLogger(__name__)


def load_remote(
    message: OpenModel,
    metadata: Metadata,
    device: str,
    *,
    chunk: int | None,
    check: Callable[[Bundle], None],
) -> Bundle:
    """A bundle whose sessions are in the process that owns the device.

    Args:
        message: Opens the model there; its number is replaced.
        metadata: Of the bundle.
        device: `process:` and the address of that process.
        chunk: As for `load_bundle`.
        check: Runs the bundle, and raises a `BundleError` if it does not work.

    Raises:
        BundleError: It cannot be opened there, does not work, or ended that process twice.
        ProviderError: The device cannot be used.
        DeviceGoneError: No process owns the device.
    """
    client = device_client(device.removeprefix(DEVICE_PROCESS))
    session = b""
    for _ in range(_MOST_LOST):
        session = client.wait(_STARTING_S, after=session)
        try:
            runs = RemoteRuns(client, message, (metadata.resize.height, metadata.resize.width))
            bundle = _bundle_of(runs, message, metadata, chunk=chunk)
            check(bundle)
            runs.follow()
        except DeviceGoneError:
            _log.warning("%s: the device was lost while it was loaded", message.path)
        else:
            return bundle
    raise BundleError(
        f"{message.path}: the process that owns the device ended {_MOST_LOST} times while it "
        "loaded it"
    )


def _bundle_of(
    runs: RemoteRuns, message: OpenModel, metadata: Metadata, *, chunk: int | None
) -> Bundle:
    return Bundle(
        metadata=metadata,
        version=version_of(message.path),
        path=message.path,
        provider=runs.opened.provider,
        provider_reason=runs.opened.provider_reason,
        num_threads=1,
        session=runs.session,
        runs=runs,
        rows=ExplanationRows(runs.prepare_rows, chunk),
        tf32=runs.opened.tf32,
    )
