"""A bundle that travels: its bytes go with the work, so that workers need no shared folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.bundle.checks import check_bundle, read_bundle_file
from limelens.serve.bundle.folder import bundle_in, version_of


@dataclass(frozen=True)
class ModelFile:
    """A bundle's file as it was when it was read.

    Args:
        path: Where it was; its folder's name is the version.
        digest: `Bundle.digest`.
        device: Of the workers, as for `load_bundle`.
    """

    path: Path
    digest: str
    device: str
    data: bytes = field(repr=False)

    @classmethod
    def read(cls, path: str | os.PathLike[str], device: str = "auto") -> tuple[ModelFile, Bundle]:
        """Reads a bundle, and proves on this machine's CPU that it works.

        Raises:
            BundleError, MissingExtraError: As `load_bundle`.
        """
        path = Path(path)
        if path.is_dir():
            path = bundle_in(path)
        checked = read_bundle_file(path)
        bundle = load_bundle(path, "cpu", num_threads=1, read=lambda _path: checked)
        return cls(path, bundle.digest, device, checked[0]), bundle

    @property
    def identity(self) -> tuple[str, int]:
        """The model and its version, as they are in rows."""
        return self.digest, version_of(self.path)

    def load(self, num_threads: int) -> Bundle:
        """Loads it in this process; takes and raises what `load_bundle` does."""
        return load_bundle(
            self.path,
            self.device,
            num_threads=num_threads,
            read=lambda path: (self.data, check_bundle(path, self.data)),
        )
