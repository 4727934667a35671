"""The authorities that this system trusts; gRPC itself reads none of them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

# Where systems keep them.
_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def system_authorities() -> Path | None:
    """The file of the authorities that this system trusts; None if it has none."""
    own = ssl.get_default_verify_paths().cafile  # SSL_CERT_FILE, if that is set
    for path in (*((own,) if own else ()), *_FILES):
        if Path(path).is_file():
            return Path(path)
    return None
