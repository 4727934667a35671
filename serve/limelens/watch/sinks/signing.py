"""Signs webhooks as the Standard Webhooks specification says, so that its libraries verify them.

The signature is `v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`. The time stamp is of
the attempt, in seconds since 1970: what was recorded on the way cannot be sent again later. It does
not know HTTP. See https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from limelens.watch.sinks.errors import SinkError

_PREFIX: Final = "whsec_"
_MIN_BYTES: Final = 24
_ADVICE: Final = (
    "expected whsec_ and the base64 of at least 24 random bytes; make one by: "
    'echo "whsec_$(openssl rand -base64 32)"'
)


def read_keys(text: str) -> tuple[bytes, ...]:
    """The keys of a secret: the one in use first, then earlier ones, by spaces or lines.

    Raises:
        SinkError: One cannot be used.
    """
    keys = []
    for one in text.split():
        try:
            key = base64.b64decode(one.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            key = b""
        if not one.startswith(_PREFIX) or len(key) < _MIN_BYTES:
            raise SinkError(f"the secret cannot be used; {_ADVICE}")
        keys.append(key)
    if not keys:
        raise SinkError(f"there is no secret; {_ADVICE}")
    return tuple(keys)


def signed_headers(
    keys: Sequence[bytes], message_id: str, body: bytes, timestamp: int
) -> dict[str, str]:
    """The three headers of a signed message; there is a signature for each key."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in signatures),
    }
