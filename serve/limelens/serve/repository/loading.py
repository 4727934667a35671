"""Loads one version and makes its first runs, so that no request waits for them."""

from __future__ import annotations

import threading
from pathlib import Path

from limelens.serve.bundle import Bundle, Metadata, load_bundle
from limelens.serve.bundle.devices import CPU


def load_and_warm(
    path: Path,
    checked: tuple[bytes, Metadata],
    device: str,
    *,
    num_threads: int | None,
    max_batch_size: int,
    tf32: bool = False,
    is_starting: bool = False,
    chunk: int | None = 0,
) -> Bundle:
    """Loads a bundle whose bytes were checked.

    Args:
        path: The file that they were read from.
        checked: The bytes and their metadata.
        device: As for `load_bundle`.
        num_threads: As for `load_bundle`.
        max_batch_size: As for `load_bundle`.
        tf32: As for `load_bundle`.
        is_starting: Nothing is served yet: what only explanations need is prepared afterwards.
        chunk: As for `load_bundle`; None also leaves the preparation to `Bundle.prepare`.

    Raises:
        BundleError: It is refused; the message says why.
        ProviderError: The device that was asked for cannot be used.
    """
    bundle = load_bundle(
        path,
        device,
        num_threads=num_threads,
        tf32=tf32,
        max_batch_size=max_batch_size,
        few_sizes=is_starting,
        chunk=chunk,
        read=lambda _path: checked,
    )
    if bundle.provider == CPU:
        bundle.warm_up()
    elif chunk is not None and is_starting:
        threading.Thread(target=bundle.prepare, name="limelens-prepare", daemon=True).start()
    elif chunk is not None:
        bundle.prepare()
    return bundle
