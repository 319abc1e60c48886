"""The laboratory's matrix: who is behind what, and which ways there are from one to the other.

The ways follow from the topology alone; nothing here knows ICE.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from enum import Enum

import attrs

from tests.lab.links import Impairment
from tests.lab.nat import APDM_APDF, EIM_ADF, EIM_APDF, EIM_EIF, Egress, Filtering, Mapping, Nat

__all__ = ["ROWS", "Place", "Row", "Together", "connectable", "direct_possible"]


class Together(Enum):
    """What both ends have in common."""

    NOTHING = "nothing"
    #: The outermost router: one carrier's customers.
    CARRIER = "carrier"
    #: All routers: one site's hosts.
    SITE = "site"


@attrs.frozen
class Place:
    """Where one uplink of an end leads."""

    #: Its routers' NATs, from the internet inwards; none for a host on the internet.
    nats: tuple[Nat, ...] = ()
    egress: Egress = Egress.ALL
    #: The inmost router's site has IPv6; that of a host on the internet does not count.
    ipv6: bool = False


def _places(given: Place | tuple[Place, ...]) -> tuple[Place, ...]:
    return (given,) if isinstance(given, Place) else given


@attrs.frozen
class Row:
    """Two ends and what is between them."""

    name: str
    #: The offerer, which controls; by uplink, the one of the default route first.
    here: tuple[Place, ...] = attrs.field(converter=_places)
    there: tuple[Place, ...] = attrs.field(converter=_places)
    #: Kinds of TURN server that both know, as of `Coturn.ice_servers`; a STUN server always is there.
    turn: tuple[str, ...] = ()
    together: Together = Together.NOTHING
    #: Of each end's own link.
    impairment: Impairment | None = None


def direct_possible(row: Row) -> bool:
    """Whether datagrams can pass between the ends without a relay."""
    return any(_meet(here, there, row.together) for here, there in itertools.product(row.here, row.there))


def _meet(here: Place, there: Place, together: Together) -> bool:
    """Whether they can pass between two uplinks."""
    if together is Together.SITE or (here.ipv6 and there.ipv6):
        return True
    if Egress.ALL is not here.egress or Egress.ALL is not there.egress:
        return False
    if together is Together.CARRIER and not here.nats[0].hairpinning:
        return False
    # A mapping that depends on the destination gives a port that the other end learns only by what comes from it, so
    # the other end's own mapping has to be the announced one and has to let that in.
    changing = [place for place in (here, there) if _mapping(place) is not Mapping.ENDPOINT_INDEPENDENT]
    if len(changing) != 1:
        return not changing
    (other,) = (place for place in (here, there) if place is not changing[0])
    return _filtering(other) is not Filtering.ADDRESS_AND_PORT_DEPENDENT


def connectable(row: Row) -> bool:
    """Whether there is a way between the ends: a direct one, or over the relay of at least one of them."""
    if direct_possible(row):
        return True
    ends = (row.here, row.there)
    relays = [any(_reaches(place, kind) for place in end for kind in row.turn) for end in ends]
    # An end without a relay of its own sends to the other's by UDP.
    sends = [any(place.egress is Egress.ALL for place in end) for end in ends]
    return any(relays) and all(relay or send for relay, send in zip(relays, sends, strict=True))


def _mapping(place: Place) -> Mapping:
    """Of all its NATs together: the one most dependent."""
    dependent = any(nat.mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT for nat in place.nats)
    return Mapping.ADDRESS_AND_PORT_DEPENDENT if dependent else Mapping.ENDPOINT_INDEPENDENT


def _filtering(place: Place) -> Filtering:
    """Of all its NATs together: the strictest."""
    kinds = {nat.filtering for nat in place.nats}
    for kind in (Filtering.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_DEPENDENT):
        if kind in kinds:
            return kind
    return Filtering.ENDPOINT_INDEPENDENT


def _reaches(place: Place, kind: str) -> bool:
    """Whether its firewall lets it use a kind of TURN server."""
    return place.egress is Egress.ALL or kind == "tls443" or (place.egress is Egress.NO_UDP and kind in ("tcp", "tls"))


_PUBLIC = Place()
_KINDS = {"eim-eif": EIM_EIF, "eim-adf": EIM_ADF, "eim-apdf": EIM_APDF, "apdm-apdf": APDM_APDF}
_HAIRPIN = attrs.evolve(EIM_EIF, hairpinning=True)
#: Behind one NAT, by its kind; and behind a carrier's and one's own.
_BEHIND = {name: Place((nat,)) for name, nat in _KINDS.items()}
_CARRIED = {name: Place((nat, EIM_APDF)) for name, nat in _KINDS.items()}
#: No way to some ends by the default route; by the second uplink there is one.
_THREE = (_BEHIND["apdm-apdf"], _BEHIND["eim-apdf"], _CARRIED["apdm-apdf"])


def _pairs(names: Sequence[tuple[str, str]]) -> dict[str, Row]:
    return {f"{here}/{there}": Row("", _BEHIND[here], _BEHIND[there]) for here, there in names}


#: Each of these is there with a TURN server and without.
_BOTH_WAYS: dict[str, Row] = {
    "public/public": Row("", _PUBLIC, _PUBLIC),
    "same-site": Row("", _BEHIND["eim-apdf"], _BEHIND["eim-apdf"], together=Together.SITE),
    "public/apdm-apdf": Row("", _PUBLIC, _BEHIND["apdm-apdf"]),
    **_pairs(
        [
            ("eim-eif", "eim-eif"),
            ("eim-adf", "eim-adf"),
            ("eim-apdf", "eim-apdf"),
            ("eim-eif", "apdm-apdf"),
            ("eim-adf", "apdm-apdf"),
            ("eim-apdf", "apdm-apdf"),
            ("apdm-apdf", "apdm-apdf"),
        ]
    ),
    "carrier-apdm-apdf/eim-apdf": Row("", _CARRIED["apdm-apdf"], _BEHIND["eim-apdf"]),
    "carrier-eim-eif/eim-apdf": Row("", _CARRIED["eim-eif"], _BEHIND["eim-apdf"]),
    "carrier-apdm-apdf/eim-eif": Row("", _CARRIED["apdm-apdf"], _BEHIND["eim-eif"]),
    "same-carrier": Row("", _CARRIED["eim-eif"], _CARRIED["eim-eif"], together=Together.CARRIER),
    "same-carrier-hairpin": Row(
        "", Place((_HAIRPIN, EIM_APDF)), Place((_HAIRPIN, EIM_APDF)), together=Together.CARRIER
    ),
    "ipv6": Row("", Place((APDM_APDF,), ipv6=True), Place((APDM_APDF,), ipv6=True)),
    "three-uplinks/eim-apdf": Row("", _THREE, _BEHIND["eim-apdf"]),
    "three-uplinks/three-uplinks": Row("", _THREE, _THREE),
    "eim-apdf/eim-apdf-slow": Row(
        "", _BEHIND["eim-apdf"], _BEHIND["eim-apdf"], impairment=Impairment(delay=0.05, loss=0.02)
    ),
    "apdm-apdf/apdm-apdf-slow": Row(
        "", _BEHIND["apdm-apdf"], _BEHIND["apdm-apdf"], impairment=Impairment(delay=0.1, loss=0.05)
    ),
}
_NO_UDP, _TCP_443 = Place((EIM_EIF,), Egress.NO_UDP), Place((EIM_EIF,), Egress.TCP_443)
#: What only a TURN server helps.
_BLOCKED: dict[str, Row] = {
    "no-udp/eim-apdf+tcp": Row("", _NO_UDP, _BEHIND["eim-apdf"], ("tcp",)),
    "no-udp/no-udp+tcp": Row("", _NO_UDP, _NO_UDP, ("tcp",)),
    "tcp-443/apdm-apdf+tls443": Row("", _TCP_443, _BEHIND["apdm-apdf"], ("tls443",)),
}

#: By name: `HERE/THERE`, with `+` and the kind of TURN server where there is one.
ROWS: dict[str, Row] = {
    name: attrs.evolve(row, name=name)
    for name, row in (
        *_BOTH_WAYS.items(),
        *((f"{name}+udp", attrs.evolve(row, turn=("udp",))) for name, row in _BOTH_WAYS.items()),
        *_BLOCKED.items(),
    )
}
