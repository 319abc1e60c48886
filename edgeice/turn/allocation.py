"""The states of an allocation, and what its requests carry (RFC 8656 §5, §7, §8)."""

from __future__ import annotations

from contextlib import suppress
from enum import Enum
from typing import Final, Literal

from edgeice.addresses import TransportAddress
from edgeice.errors import DecodeError, LocalProtocolError
from edgeice.stun import values
from edgeice.stun.attributes import Attribute
from edgeice.stun.message import AuthenticatedMessage, Message
from edgeice.stun.values import AddressErrorCode

__all__ = [
    "TERMINAL",
    "TRANSITIONS",
    "AllocationInput",
    "AllocationState",
    "allocate_attributes",
    "next_state",
    "refused_family",
    "relayed_addresses",
]

#: IANA's number of UDP, the only transport to peers (RFC 8656 §7.1).
_UDP: Final = 17
#: ADDITIONAL-ADDRESS-FAMILY and ADDRESS-ERROR-CODE by the numbers that coturn knows them by, which are older than the
#: RFC's; other servers ignore what they do not know (RFC 8489 §14).
COTURN_ADDITIONAL_ADDRESS_FAMILY: Final = 0x8032
COTURN_ADDRESS_ERROR_CODE: Final = 0x8033


class AllocationState(Enum):
    """How far an allocation is."""

    ALLOCATING = "allocating"
    ALLOCATED = "allocated"
    #: Closed while the server was still to answer: what it grants is given back.
    ABANDONED = "abandoned"
    #: A Refresh with a lifetime of zero is on its way.
    RELEASING = "releasing"
    #: There never was one.
    FAILED = "failed"
    #: There was one, and it ended without being closed.
    LOST = "lost"
    #: It was closed.
    RELEASED = "released"


class AllocationInput(Enum):
    """What can happen to an allocation."""

    #: A success response to Allocate.
    GRANTED = "granted"
    #: Any other end of Allocate.
    REFUSED = "refused"
    #: There is one at the server, and it is of no use here (RFC 8656 §7.3, §12.3).
    UNUSABLE = "unusable"
    #: The server does not know it any more, it was not refreshed in time, or the way to the server is gone.
    GONE = "gone"
    #: The owner wants it no more.
    CLOSED = "closed"


_S = AllocationState
_I = AllocationInput

#: What is not in here cannot happen: `next_state` raises.
TRANSITIONS: Final[dict[tuple[AllocationState, AllocationInput], AllocationState]] = {
    (_S.ALLOCATING, _I.GRANTED): _S.ALLOCATED,
    (_S.ALLOCATING, _I.REFUSED): _S.FAILED,
    (_S.ALLOCATING, _I.UNUSABLE): _S.RELEASING,
    (_S.ALLOCATING, _I.GONE): _S.FAILED,
    (_S.ALLOCATING, _I.CLOSED): _S.ABANDONED,
    (_S.ALLOCATED, _I.UNUSABLE): _S.RELEASING,
    (_S.ALLOCATED, _I.GONE): _S.LOST,
    (_S.ALLOCATED, _I.CLOSED): _S.RELEASING,
    (_S.ABANDONED, _I.GRANTED): _S.RELEASING,
    (_S.ABANDONED, _I.REFUSED): _S.RELEASED,
    (_S.ABANDONED, _I.UNUSABLE): _S.RELEASING,
    (_S.ABANDONED, _I.GONE): _S.RELEASED,
    (_S.ABANDONED, _I.CLOSED): _S.ABANDONED,
    (_S.RELEASING, _I.GONE): _S.RELEASED,
    (_S.RELEASING, _I.CLOSED): _S.RELEASING,
    # After its end nothing happens to it, but the owner may say more.
    (_S.FAILED, _I.GONE): _S.FAILED,
    (_S.FAILED, _I.CLOSED): _S.FAILED,
    (_S.LOST, _I.GONE): _S.LOST,
    (_S.LOST, _I.CLOSED): _S.LOST,
    (_S.RELEASED, _I.GONE): _S.RELEASED,
    (_S.RELEASED, _I.CLOSED): _S.RELEASED,
}

#: Nothing leaves these.
TERMINAL: Final = frozenset({_S.FAILED, _S.LOST, _S.RELEASED})


def next_state(state: AllocationState, happened: AllocationInput) -> AllocationState:
    """Where an input leads.

    Raises:
        LocalProtocolError: It cannot happen in this state.
    """
    try:
        return TRANSITIONS[state, happened]
    except KeyError:
        raise LocalProtocolError(f"{happened.value} cannot happen to an allocation that is {state.value}") from None


def allocate_attributes(
    *,
    family: Literal[4, 6] | None = None,
    additional_family: Literal[4, 6] | None = None,
    lifetime: int | None = None,
    dont_fragment: bool = False,
    even_port: bool | None = None,
    reservation_token: bytes | None = None,
    software: str | None = None,
) -> list[tuple[int, object]]:
    """The attributes of an Allocate request (RFC 8656 §7.1).

    Args:
        family: Of the relayed address; None leaves the attribute out, which asks for IPv4.
        additional_family: IPv6 for a second relayed address beside one of IPv4.
        lifetime: Seconds to ask for.
        dont_fragment: Whether peers are to get datagrams with DF set.
        even_port: Asks for an even port; True reserves the next higher one.
        reservation_token: What an earlier request with `even_port` True brought, 8 bytes.
        software: What this is, for the server's log.

    Raises:
        LocalProtocolError: What must not stand together does.
    """
    if reservation_token is not None and even_port is not None:
        raise LocalProtocolError("EVEN-PORT excludes RESERVATION-TOKEN")
    if family is not None and reservation_token is not None:
        raise LocalProtocolError("REQUESTED-ADDRESS-FAMILY excludes RESERVATION-TOKEN")
    if additional_family is not None:
        if additional_family != 6:
            raise LocalProtocolError("ADDITIONAL-ADDRESS-FAMILY can ask for IPv6 only")
        if family is not None or reservation_token is not None or even_port:
            raise LocalProtocolError(
                "ADDITIONAL-ADDRESS-FAMILY excludes REQUESTED-ADDRESS-FAMILY, RESERVATION-TOKEN and a reserved port"
            )
    attributes: list[tuple[int, object]] = [] if software is None else [(Attribute.SOFTWARE, software)]
    attributes.append((Attribute.REQUESTED_TRANSPORT, _UDP))
    optional: tuple[tuple[Attribute, object], ...] = (
        (Attribute.REQUESTED_ADDRESS_FAMILY, family),
        (Attribute.ADDITIONAL_ADDRESS_FAMILY, additional_family),
        (Attribute.LIFETIME, lifetime),
        (Attribute.DONT_FRAGMENT, dont_fragment or None),
        (Attribute.EVEN_PORT, even_port),
        (Attribute.RESERVATION_TOKEN, reservation_token),
    )
    attributes += [(kind, given) for kind, given in optional if given is not None]
    if additional_family is not None:
        attributes.append((COTURN_ADDITIONAL_ADDRESS_FAMILY, values.encode_family(additional_family)))
    return attributes


def relayed_addresses(response: Message | AuthenticatedMessage) -> dict[int, TransportAddress]:
    """The relayed addresses in a success response by family; of each the first (RFC 8656 §7.3)."""
    found: dict[int, TransportAddress] = {}
    for address in response.get_all(Attribute.XOR_RELAYED_ADDRESS):
        if address.port:  # coturn lists 0.0.0.0:0 for a family that it does not have
            found.setdefault(address.family, address)
    return found


def refused_family(response: Message | AuthenticatedMessage) -> AddressErrorCode | None:
    """The family that was asked for and not granted, None if there is none (RFC 8656 §18.12)."""
    refused = response.get(Attribute.ADDRESS_ERROR_CODE)
    raw = response.get(COTURN_ADDRESS_ERROR_CODE)
    if refused is None and isinstance(raw, bytes):
        with suppress(DecodeError):
            return values.decode_address_error_code(raw, response.transaction_id)
    return refused
