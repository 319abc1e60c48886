"""Candidates and their line in a session description (RFC 8445 §5.1, RFC 8839 §5.1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from enum import Enum
from typing import Final

import attrs

from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError

__all__ = [
    "Candidate",
    "CandidateType",
    "NamedCandidate",
    "decode_candidate",
    "encode_candidate",
    "local_foundation",
]


class CandidateType(Enum):
    """How a candidate came to be known (RFC 8445 §4); the value is its token in a description."""

    HOST = "host"
    SERVER_REFLEXIVE = "srflx"
    PEER_REFLEXIVE = "prflx"
    RELAYED = "relay"


@attrs.frozen
class Candidate:
    """A transport address that may receive, on either side."""

    foundation: str
    priority: int
    address: TransportAddress
    type: CandidateType
    component: int = 1
    #: The related address of a reflexive or relayed candidate; None if there is none or it is hidden.
    related: TransportAddress | None = None
    #: Where datagrams for a local candidate are sent from; None on a remote one.
    base: TransportAddress | None = None
    #: Number of the interface on its owner's host, from 1; 0 where its owner does not say.
    network: int = 0
    #: What it costs to use that, as `addresses.Base.cost`; 0 where its owner does not say.
    cost: int = 0

    def __str__(self) -> str:
        return f"{self.type.value} {self.address}"


@attrs.frozen
class NamedCandidate:
    """A remote candidate whose address is a `.local` name (draft-ietf-mmusic-mdns-ice-candidates §3.1.1)."""

    name: str
    port: int
    #: The candidate with a placeholder for its address.
    template: Candidate

    def at(self, ip: str) -> Candidate:
        """The candidate once its name is resolved; raises DecodeError if `ip` is no address."""
        return attrs.evolve(self.template, address=TransportAddress.parse(ip, self.port))


# RFC 8839 §5.1.  Lengths of numbers are bounded before int() sees them.
_LINE: Final = re.compile(
    r"(?:a=)?candidate:(?P<foundation>[A-Za-z0-9+/]{1,32})"
    r" (?P<component>[0-9]{1,3}) (?P<transport>[!-~]{1,16}) (?P<priority>[0-9]{1,10})"
    r" (?P<address>[!-~]{1,255}) (?P<port>[0-9]{1,5}) typ (?P<type>[!-~]{1,16})"
    r"(?P<extensions>(?: [ -~]*)?)"
)
# draft-ietf-mmusic-mdns-ice-candidates §3.1.1: a version 4 UUID, one dot, and `local`.
_UUID_NAME: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.local", re.IGNORECASE
)
_IP_CHARACTERS: Final = re.compile(r"[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
_MAX_LINE: Final = 1024
#: What `network-id` and `network-cost` can be in libwebrtc, which has them.
_MAX_NETWORK: Final = 0xFFFF
_MAX_COST: Final = 999
_TYPES: Final = {kind.value: kind for kind in CandidateType}
_PLACEHOLDER: Final = TransportAddress("0.0.0.0", 9)  # noqa: S104  # RFC 8839 §5.1: means hidden; nothing is bound


def decode_candidate(line: str) -> Candidate | NamedCandidate:
    """Read a candidate line, with or without `a=`; what it says beyond what is used here is ignored.

    Raises:
        DecodeError: The line is to be ignored (RFC 8839 §5.1): `candidate_syntax`, `candidate_transport` (not UDP),
            `candidate_type`, `candidate_name` (a name other than a UUID in `.local`), `candidate_range`, `address`.
    """
    if len(line) > _MAX_LINE:
        raise DecodeError("candidate_syntax", "too long")
    match = _LINE.fullmatch(line.rstrip("\r\n"))
    if match is None:
        raise DecodeError("candidate_syntax")
    component, priority, port = int(match["component"]), int(match["priority"]), int(match["port"])
    if not (1 <= component <= 256 and 1 <= priority <= 0x7FFFFFFF and port <= 0xFFFF):
        raise DecodeError("candidate_range")
    if match["transport"].lower() != "udp":
        raise DecodeError("candidate_transport")
    kind = _TYPES.get(match["type"].lower())
    if kind is None:
        raise DecodeError("candidate_type")
    host = match["address"]
    named = _UUID_NAME.fullmatch(host) is not None
    if not named and not _IP_CHARACTERS.fullmatch(host):
        # RFC 8839 §5.1: an FQDN is ignored; a scope is no part of an address here either.
        raise DecodeError("candidate_name")
    words = match["extensions"].split()
    extensions = dict(zip(words[::2], words[1::2], strict=False))
    candidate = Candidate(
        match["foundation"],
        priority,
        _PLACEHOLDER if named else TransportAddress.parse(host, port),
        kind,
        component,
        None if kind is CandidateType.HOST else _related(extensions),
        network=_number(extensions.get("network-id", ""), _MAX_NETWORK),
        cost=_number(extensions.get("network-cost", ""), _MAX_COST),
    )
    return NamedCandidate(host.lower(), port, candidate) if named else candidate


def _number(text: str, highest: int) -> int:
    """A number that only helps; 0, which says nothing, if it is none or too large."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return value if value <= highest else 0


def _related(extensions: Mapping[str, str]) -> TransportAddress | None:
    # Nothing depends on the related address, so a bad one costs only itself.
    ip, port = extensions.get("raddr", ""), extensions.get("rport", "")
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        return None
    try:
        related = TransportAddress.parse(ip, int(port))
    except DecodeError:
        return None
    hidden = related.ip in {"0.0.0.0", "::"}  # noqa: S104  # compared, not bound
    return None if hidden else related


def encode_candidate(candidate: Candidate) -> str:
    """The line of a candidate, without `a=`: `candidate:…`."""
    address = candidate.address
    line = (
        f"candidate:{candidate.foundation} {candidate.component} {address.protocol} {candidate.priority}"
        f" {address.ip} {address.port} typ {candidate.type.value}"
    )
    if candidate.type is CandidateType.HOST:
        return line + _network(candidate)
    # RFC 8839 §5.1: reflexive and relayed candidates have a related address; a hidden one is 0.0.0.0 or ::, port 9.
    related = candidate.related
    if related is None:
        related = TransportAddress("::" if address.family == 6 else _PLACEHOLDER.ip, 9)
    return f"{line} raddr {related.ip} rport {related.port}{_network(candidate)}"


def _network(candidate: Candidate) -> str:
    """What libwebrtc says of the interface, in its order; nothing of what is not known."""
    number = f" network-id {candidate.network}" if candidate.network else ""
    return f"{number} network-cost {candidate.cost}" if candidate.network or candidate.cost else ""


def local_foundation(salt: bytes, kind: CandidateType, base: TransportAddress, server: TransportAddress | None) -> str:
    """Equal for candidates of the same type, base IP, server IP and protocols, different otherwise (RFC 8445 §5.1.1.3).

    A keyed hash, so that no table of what was seen has to be kept and nothing shows of the addresses.
    """
    via = (server.ip, server.protocol) if server else ()
    parts = (kind.value, base.ip, base.scope, base.protocol, *via)
    return hashlib.blake2s("|".join(parts).encode(), digest_size=5, key=salt).hexdigest()
