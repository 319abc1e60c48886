"""What answers to an Allocate request say: the addresses that were granted, or the server to ask (RFC 8656 §7.3)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import attrs

from edgeice.addresses import TransportAddress
from edgeice.stun.attributes import Attribute
from edgeice.stun.message import AuthenticatedMessage, Message
from edgeice.turn.allocation import relayed_addresses
from edgeice.turn.events import AllocationRedirected

__all__ = ["Grant", "read_grant", "read_redirect"]


@attrs.frozen
class Grant:
    """What a success response grants."""

    #: The relayed address, of the family that was asked for if there is one.
    relayed: TransportAddress
    #: The one of the other family.
    additional: TransportAddress | None
    #: How the server sees this end.
    mapped: TransportAddress

    @property
    def families(self) -> frozenset[int]:
        """Families of peers that can be reached."""
        return frozenset(each.family for each in (self.relayed, self.additional) if each is not None)


def read_grant(response: Message | AuthenticatedMessage, *, family: Literal[4, 6], dual: bool) -> Grant | None:
    """Read a success response; None if it grants nothing that was asked for.

    Args:
        response: The server's.
        family: That was asked for.
        dual: Whether the other family was asked for too.
    """
    relayed = relayed_addresses(response)
    mapped = response.get(Attribute.XOR_MAPPED_ADDRESS)
    main = relayed.get(family) or (next(iter(relayed.values()), None) if dual else None)
    if main is None or mapped is None:
        return None
    return Grant(main, next((each for other, each in relayed.items() if dual and other != main.family), None), mapped)


def read_redirect(
    response: Message | AuthenticatedMessage, server: TransportAddress, tried: Collection[TransportAddress]
) -> AllocationRedirected | str:
    """Which other server a 300 of `server` names; why it cannot be followed, a slug, otherwise (RFC 8489 §10)."""
    alternate = response.get(Attribute.ALTERNATE_SERVER)
    if alternate is None or alternate.family != server.family:
        return "redirect_malformed"
    # RFC 8489 §10: over the same transport.
    alternate = attrs.evolve(alternate, protocol=server.protocol)
    if alternate in tried or alternate == server:
        return "redirect_loop"
    return AllocationRedirected(alternate, response.get(Attribute.ALTERNATE_DOMAIN))
