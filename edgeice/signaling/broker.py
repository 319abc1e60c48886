"""What a party says to and hears from its broker: configuration, events, errors and limits of the MQTT client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import attrs

from edgeice.errors import ConfigError, EdgeIceError, LocalProtocolError
from edgeice.sansio import Event

__all__ = [
    "MAX_FILTERS_PER_SUBSCRIBE",
    "MAX_PACKET",
    "MAX_PAYLOAD",
    "MAX_TOPIC_SLASHES",
    "BrokerConfig",
    "FailureKind",
    "Message",
    "MqttConnectFailed",
    "MqttConnected",
    "MqttDisconnected",
    "MqttError",
    "MqttEvent",
    "MqttExpiredError",
    "MqttQueueFullError",
    "MqttRefusedError",
    "MqttUnavailableError",
    "MqttVersion",
    "SubscribeResult",
    "TlsConfig",
    "Will",
    "check_filter",
    "check_publish",
]

#: Largest MQTT packet that is accepted, bytes; announced on version 5, guarded on every version.
MAX_PACKET = 64 * 1024
#: Largest payload that is published, bytes.
MAX_PAYLOAD = 32 * 1024
#: Some large clouds allow no deeper topics and no longer SUBSCRIBE.
MAX_TOPIC_SLASHES = 6
MAX_FILTERS_PER_SUBSCRIBE = 8

MqttVersion: TypeAlias = Literal["5", "3.1.1"]


class MqttError(EdgeIceError):
    """Base of what a publish or subscribe can end in; the message is one line for people."""


class MqttUnavailableError(MqttError):
    """There is no connection to the broker, or it was lost before the broker acknowledged.

    After a loss the broker may or may not have what was sent.
    """


class MqttRefusedError(MqttError):
    """The broker answered, and refused."""


class MqttExpiredError(MqttError):
    """The message's expiry passed before the broker acknowledged it."""


class MqttQueueFullError(MqttError):
    """Too many messages wait to be acknowledged; this one was not taken."""


class FailureKind(StrEnum):
    """Why a connection to the broker could not be made."""

    NAME_NOT_RESOLVED = "name-not-resolved"
    CONNECTION_REFUSED = "connection-refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed-out"
    #: The broker's certificate does not hold.
    TLS_CERTIFICATE = "tls-certificate"
    #: TLS failed otherwise, for instance because the port does not speak it.
    TLS = "tls"
    BAD_CREDENTIALS = "bad-credentials"
    NOT_AUTHORIZED = "not-authorized"
    #: The broker does not speak this version of MQTT; the next attempt uses another.
    UNSUPPORTED_VERSION = "unsupported-version"
    #: The broker answered and refuses for another reason.
    REFUSED_BY_BROKER = "refused-by-broker"
    #: The broker closed the connection before it answered our CONNECT.
    CLOSED = "closed"
    #: The broker took our CONNECT and said nothing.  3.1.1 brokers that misread version 5 do so.
    UNANSWERED = "unanswered"
    PROTOCOL = "protocol"


def _check_text(_instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    # MQTT 5 §1.5.4: strings are UTF-8 of at most 65,535 bytes, without NUL and surrogates.
    if not value or "\0" in value or not _is_utf8(value) or len(value.encode()) > 0xFFFF:
        raise ConfigError(f"broker {attribute.name}: must be 1 to 65535 bytes of UTF-8 text without NUL")


def _between(lowest: float, highest: float) -> Callable[[object, attrs.Attribute[Any], float], None]:
    def check(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
        if not lowest <= value <= highest:
            raise ConfigError(f"broker {attribute.name}: {value} is not between {lowest} and {highest}")

    return check


@attrs.frozen
class TlsConfig:
    """How the broker's certificate is verified; it always is."""

    #: PEM file with the authorities to trust instead of the system's.
    cafile: Path | None = None
    #: Name that the certificate must carry where it is not the host's, for instance behind a tunnel.
    server_name: str | None = None


@attrs.frozen(kw_only=True)
class BrokerConfig:
    """Where the broker is and who we are there.  Raises ConfigError for values that MQTT cannot carry."""

    host: str = attrs.field(validator=_check_text)
    port: int = attrs.field(validator=_between(1, 0xFFFF))
    client_id: str = attrs.field(validator=_check_text)
    username: str | None = attrs.field(default=None, validator=attrs.validators.optional(_check_text))
    password: str | None = attrs.field(default=None, repr=False, validator=attrs.validators.optional(_check_text))
    #: None speaks plain TCP, which is for loopback.
    tls: TlsConfig | None = None
    #: Longest silence before a ping, seconds; a broker may prescribe another on version 5.
    keepalive: int = attrs.field(default=60, validator=_between(1, 0xFFFF))
    #: How long the broker holds the Will back (version 5), seconds: longer than a usual move between networks.
    will_delay: int = attrs.field(default=30, validator=_between(0, 86400))
    #: Keep the session on 3.1.1 too.  False for a client id that is never used again, because a 3.1.1 session
    #: has no end; on version 5 every session ends `will_delay` + 30 s after the connection.
    persistent: bool = True
    #: Longest time from the look-up of the name to the broker's CONNACK, seconds.
    connect_timeout: float = attrs.field(default=10.0, validator=_between(0.1, 600))


@attrs.frozen
class Will:
    """What the broker publishes for us when the connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: Literal[0, 1] = 1
    retain: bool = True


@attrs.frozen
class MqttConnected(Event):
    """The broker accepted us.  Subscribe now, also where the session was present: that repeats retained messages."""

    #: The broker kept our session, with its subscriptions and what came meanwhile.
    session_present: bool
    version: MqttVersion
    #: The interface that the connection goes by, where that is known.
    interface: str = ""


@attrs.frozen
class MqttDisconnected(Event):
    """A connection ended."""

    #: One line for people.
    reason: str
    #: Seconds until the next attempt.
    retry_in: float


@attrs.frozen
class MqttConnectFailed(Event):
    """An attempt did not lead to a connection."""

    kind: FailureKind
    #: One line for people: what went wrong and what to do.
    message: str
    #: Seconds until the next attempt.
    retry_in: float


@attrs.frozen
class Message(Event):
    """A message from a topic that we subscribed to; may come twice (QoS 1)."""

    topic: str
    payload: bytes
    #: The broker had kept it from before our subscription.
    retained: bool


MqttEvent: TypeAlias = MqttConnected | MqttDisconnected | MqttConnectFailed | Message


def _frozen_mapping(mapping: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(mapping))


@attrs.frozen
class SubscribeResult:
    """What the broker said to each filter."""

    granted: tuple[str, ...]
    #: The broker's reason by filter.
    refused: Mapping[str, str] = attrs.field(converter=_frozen_mapping)


def check_publish(topic: str, payload: bytes, qos: int, expiry: int | None) -> None:
    """Refuse what must not be published: raises LocalProtocolError that says which limit it breaks."""
    _check_topic(topic, "topic")
    if "+" in topic or "#" in topic:
        raise LocalProtocolError(f"topic with a wildcard: {topic!r}")
    if len(payload) > MAX_PAYLOAD:
        raise LocalProtocolError(f"payload of {len(payload)} bytes exceeds {MAX_PAYLOAD}")
    if qos not in (0, 1):
        raise LocalProtocolError(f"QoS {qos}: only 0 and 1 are used, large brokers have no 2")
    if expiry is not None and not 1 <= expiry <= 0xFFFFFFFF:
        raise LocalProtocolError(f"expiry of {expiry} s is not between 1 and 4294967295")


def check_filter(topic_filter: str) -> None:
    """Refuse an invalid topic filter (MQTT 5 §4.7.1): raises LocalProtocolError."""
    _check_topic(topic_filter, "filter")
    levels = topic_filter.split("/")
    for index, level in enumerate(levels):
        if ("#" in level and (level != "#" or index != len(levels) - 1)) or ("+" in level and level != "+"):
            raise LocalProtocolError(f"misplaced wildcard in filter {topic_filter!r}")


def _check_topic(topic: str, what: str) -> None:
    if not topic or "\0" in topic or not _is_utf8(topic) or len(topic.encode()) > 1024:
        raise LocalProtocolError(f"{what} must be 1 to 1024 bytes of UTF-8 text without NUL")
    if topic.count("/") > MAX_TOPIC_SLASHES:
        raise LocalProtocolError(f"{what} {topic!r} has more than {MAX_TOPIC_SLASHES} slashes")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
