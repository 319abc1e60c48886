"""URIs of STUN and TURN servers (RFC 7064, RFC 7065)."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Literal, TypeAlias, cast

import attrs

from edgeice.addresses import Protocol
from edgeice.errors import DecodeError

__all__ = ["ServerUri", "parse_uri"]

Scheme: TypeAlias = Literal["stun", "stuns", "turn", "turns"]

# RFC 7064 §3.1, RFC 7065 §3.1: no "//", no user, no path, no fragment; a name as RFC 3986 §3.2.2 has it, but only of
# characters that can be in a host name.
_URI: Final = re.compile(
    r"(?P<scheme>stuns?|turns?):(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]{1,253}))(?::(?P<port>[0-9]*))?"
    r"(?:\?transport=(?P<transport>[a-z0-9.~_-]+))?",
    re.IGNORECASE | re.ASCII,
)
_LIMIT: Final = 320  # What the pattern takes is shorter; more is not even looked at.


@attrs.frozen
class ServerUri:
    """A server that a URI names; made by `parse_uri`."""

    scheme: Scheme
    #: A name in lower case, or an IP address in canonical form without brackets.
    host: str
    #: None if the URI has none: `effective_port` then, after an SRV look-up where there is one (RFC 8489 §8.1).
    port: int | None
    #: How to reach the server; "tcp" with `is_secure` is TLS, "udp" with `is_secure` is DTLS.
    transport: Protocol

    @property
    def is_turn(self) -> bool:
        """Whether it is a relay."""
        return self.scheme in {"turn", "turns"}

    @property
    def is_secure(self) -> bool:
        """Whether TLS or DTLS is required; the certificate must then name `host` (RFC 8489 §6.2.3)."""
        return self.scheme in {"stuns", "turns"}

    @property
    def is_address(self) -> bool:
        """Whether `host` is an IP address, so that there is nothing to resolve."""
        return _address(self.host) is not None

    @property
    def effective_port(self) -> int:
        """The port, by default 3478 or, where secure, 5349 (RFC 7064 §3.2, RFC 7065 §3.2)."""
        if self.port is not None:
            return self.port
        return 5349 if self.is_secure else 3478

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        query = f"?transport={self.transport}" if self.is_turn else ""
        return f"{self.scheme}:{host}{port}{query}"


def parse_uri(text: str) -> ServerUri:
    """Read a `stun:`, `stuns:`, `turn:` or `turns:` URI.

    Raises:
        DecodeError: It is none, names a transport that is not known, or is a `stuns:` with a bare IP
            address (RFC 8489 §8.1).  RFC 7065 allows that for `turns:`: there the certificate must prove the address.
    """
    match = _URI.fullmatch(text) if len(text) <= _LIMIT else None
    if match is None:
        raise DecodeError("uri", f"not a STUN or TURN URI: {text[:80]!r}")
    # The pattern has no other schemes.
    scheme = cast("Scheme", match["scheme"].lower())
    literal = _address(match["ipv6"] or match["name"])
    if match["ipv6"] is not None and (literal is None or ":" not in literal):
        raise DecodeError("uri", f"not an IPv6 address: {match['ipv6'][:64]!r}")
    if literal is None and re.fullmatch(r"[0-9.]+", match["name"]):
        raise DecodeError("uri", f"not an IPv4 address: {match['name'][:64]!r}")
    uri = ServerUri(
        scheme, literal or match["name"].lower(), _port(match["port"]), _transport(scheme, match["transport"])
    )
    if scheme == "stuns" and literal is not None:
        raise DecodeError("uri", "stuns: needs a name that a certificate can prove, not an IP address")
    return uri


def _address(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def _port(digits: str | None) -> int | None:
    if not digits:  # RFC 3986 §3.2.3: an empty port is none.
        return None
    if len(digits) > 5 or not 0 < int(digits) <= 0xFFFF:
        raise DecodeError("uri", f"port out of range: {digits[:16]}")
    return int(digits)


def _transport(scheme: Scheme, transport: str | None) -> Protocol:
    if transport is None:
        # RFC 7065 §3.2 leaves it open; RFC 5928 §3 would look all up: this is what relays offer.
        return "tcp" if scheme in {"stuns", "turns"} else "udp"
    if scheme in {"stun", "stuns"}:
        raise DecodeError("uri", "a STUN URI names no transport")  # RFC 7064 §3.1
    lowered = transport.lower()
    if lowered not in {"udp", "tcp"}:
        raise DecodeError("uri", f"unknown transport: {transport[:16]}")
    return cast("Protocol", lowered)
