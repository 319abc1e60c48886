"""What can be set about sessions."""

from __future__ import annotations

import attrs

from edgeice.errors import ConfigError, DecodeError
from edgeice.sctp import SctpConfig

__all__ = ["ConnectionConfig", "TurnServer"]


@attrs.frozen(kw_only=True)
class ConnectionConfig:
    """What can be set about a session's data channels."""

    #: Size of the largest datagram sent, bytes (RFC 8831 §5: no path MTU discovery below SCTP).
    mtu: int = 1200
    sctp: SctpConfig = attrs.field(factory=SctpConfig)


def _check_uri(_instance: object, _attribute: attrs.Attribute[str], text: str) -> None:
    from edgeice.stun import parse_uri  # noqa: PLC0415  # many devices have no relay

    try:
        uri = parse_uri(text)
    except DecodeError as error:
        raise ConfigError(f"turn: {text!r}: {error}") from None
    if not uri.is_turn:
        raise ConfigError(f"turn: {text!r}: expected turn:HOST or turns:HOST")
    if uri.is_secure and uri.transport == "udp":
        raise ConfigError(f"turn: {text!r}: DTLS to a relay is not supported; TLS is, without ?transport=udp")


@attrs.frozen
class TurnServer:
    """A relay and the long-term credentials for it; raises ConfigError for a URI that names none."""

    #: `turn:HOST[:PORT][?transport=udp|tcp]` or `turns:HOST[:PORT]` (RFC 7065).
    uri: str = attrs.field(validator=_check_uri)
    username: str
    password: str = attrs.field(repr=False)
