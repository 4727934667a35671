"""A client of an MQTT broker that knows what the broker refused. It does not know what is said."""

from __future__ import annotations

import logging
import re
import ssl
from typing import Any, Final

import paho.mqtt.client as paho
from aiomqtt import Client, ProtocolVersion, Will
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from limelens.serve.wording import first_line
from limelens.watch.secret import read_secret
from limelens.watch.sinks.errors import SinkError
from limelens.watch.sinks.mqtt_settings import MqttSettings

# aiomqtt warns in the log of what the sink says itself.
_quiet: Final = logging.getLogger(f"{__name__}.wire")
_quiet.setLevel(logging.CRITICAL)

_NO_TLS: Final = ("reset by peer", "UNEXPECTED_EOF", "EOF occurred", "WRONG_VERSION")
"""What a listener without TLS makes of a greeting in TLS."""


class BrokerClient(Client):
    """Publishes at QoS 1, one message at a time.

    A broker acknowledges what its access lists forbid, with a reason (MQTT 5, 3.4.2.1) that aiomqtt
    drops: without it a state that nobody hears would look as if it was said. Arguments are those
    of `aiomqtt.Client`.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._refusal = ""
        self.refused: dict[str, str] = {}
        """The topics of which the broker refused the last message, and why."""

    async def say(
        self, topic: str, said: bytes | str, *, retain: bool = False, expires_s: int | None = None
    ) -> None:
        """Publishes a message.

        Args:
            topic: Its topic.
            said: The message.
            retain: Whether the broker keeps it for those who come later.
            expires_s: For how long, in seconds; None is for good.

        Raises:
            MqttError: The broker did not acknowledge it.
        """
        properties = None
        if expires_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expires_s
        self._refusal = ""
        await self.publish(topic, said, qos=1, retain=retain, properties=properties)
        if self._refusal:
            self.refused[topic] = self._refusal
        else:
            self.refused.pop(topic, None)

    def _on_publish(
        self,
        client: paho.Client,
        userdata: Any,
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        if reason_code.is_failure:
            self._refusal = str(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)


def client_of(settings: MqttSettings, tls: ssl.SSLContext | None, will: Will) -> BrokerClient:
    """A client for one connection, on the running event loop.

    Raises:
        SecretError: The password cannot be read.
    """
    return BrokerClient(
        settings.host,
        settings.actual_port,
        username=settings.username,
        password=password_of(settings),
        identifier=settings.actual_client_id,
        protocol=ProtocolVersion.V5 if settings.version == "5" else ProtocolVersion.V311,
        will=will,
        keepalive=settings.keepalive_s,
        timeout=settings.timeout_s,
        tls_context=tls,
        logger=_quiet,
    )


def password_of(settings: MqttSettings) -> str | None:
    """The password, read anew; None if there is none.

    Raises:
        SecretError: It cannot be read.
    """
    secret = read_secret("the password", settings.password_file, settings.password_env)
    return None if secret is None else secret.get_secret_value()


def tls_of(settings: MqttSettings) -> ssl.SSLContext | None:
    """How TLS is spoken; None is not at all.

    Raises:
        SinkError: The authorities or the certificate cannot be used.
    """
    if not settings.tls:
        return None
    path = settings.tls_ca
    try:
        context = ssl.create_default_context(cafile=None if path is None else str(path))
        if settings.tls_cert is not None and settings.tls_key is not None:
            path = settings.tls_cert
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        reason = "cannot be used" if isinstance(error, ssl.SSLError) else error.strerror
        raise SinkError(f"{path}: {reason}; expected certificates as PEM") from error
    return context


def why(error: BaseException, *, tls: bool) -> str:
    """Why the broker is away, for people; `tls` is whether TLS was spoken."""
    if error.__cause__ is not None:  # aiomqtt's own text says only that it is
        return why(error.__cause__, tls=tls)
    text = first_line(error)
    if "taken over" in text or "Unspecified error" in text:
        return (
            "the broker ended the connection; if it does so again and again, another process has "
            "the same base_topic, and each needs one of its own"
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            f"its certificate is not trusted: {text}; if it is your own authority's, name that by "
            "tls_ca"
        )
    if tls and any(one in text for one in _NO_TLS):
        text += "; if the broker speaks no TLS, which is enough on this machine, set tls = false"
    return re.sub(r"^\[Errno \d+\] ", "", text)
