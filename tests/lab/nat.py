"""What a router does to the packets of its site: NAT by mapping and filtering (RFC 4787), a firewall, IPv6.

Linux's own masquerade keeps a source port where it can, and lets in only what answers: endpoint-independent mapping,
address and port-dependent filtering.  The other kinds are made of it:

- Ports drawn anew for each destination make the mapping address and port-dependent.
- Maps that remember which inside address last sent from a port, and to whom, let in what is no answer.

A site's hosts must not send from one port at the same time: those maps know one owner of each port.
"""

from __future__ import annotations

from enum import Enum

import attrs

__all__ = [
    "APDM_APDF",
    "EIM_ADF",
    "EIM_APDF",
    "EIM_EIF",
    "Egress",
    "Filtering",
    "Mapping",
    "Nat",
    "Site",
    "rules",
]


class Mapping(Enum):
    """What an external port is kept for (RFC 4787 §4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_AND_PORT_DEPENDENT = "address and port-dependent"


class Filtering(Enum):
    """From where a mapped port receives (RFC 4787 §5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address and port-dependent"


@attrs.frozen
class Nat:
    """A translator of IPv4 addresses."""

    mapping: Mapping
    filtering: Filtering
    #: Two hosts inside reach each other by their external addresses (RFC 4787 §6), and see those.
    hairpinning: bool = False
    #: Whole seconds that a mapping lives after its last packet (RFC 4787 §4.3: two minutes or more).
    lifetime: int = 120

    def __attrs_post_init__(self) -> None:
        if self.mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT and (
            self.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT or self.hairpinning
        ):
            raise ValueError("the maps that let in strangers need ports that are kept")


EIM_EIF = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT)
EIM_ADF = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT)
EIM_APDF = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
APDM_APDF = Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)


class Egress(Enum):
    """What the router's firewall lets out."""

    ALL = "all"
    #: Everything but UDP.
    NO_UDP = "no UDP"
    #: TCP to port 443 and nothing else.
    TCP_443 = "TCP to port 443"


@attrs.frozen(kw_only=True)
class Site:
    """How a router treats its site.

    IPv6 is routed, and let in only where it answers.  So is IPv4 without a NAT, but all of it is let in.
    """

    nat: Nat | None
    egress: Egress = Egress.ALL


_EGRESS = {
    Egress.ALL: "",
    Egress.NO_UDP: "iifname lan oifname wan meta l4proto udp drop",
    Egress.TCP_443: "iifname lan oifname wan tcp dport 443 accept\n    iifname lan oifname wan drop",
}
_STRANGERS = {
    Filtering.ENDPOINT_INDEPENDENT: "iifname wan meta l4proto udp dnat to udp dport map @owners",
    Filtering.ADDRESS_DEPENDENT: "iifname wan meta l4proto udp dnat to udp dport . ip saddr map @contacts",
    Filtering.ADDRESS_AND_PORT_DEPENDENT: "",
}


def rules(site: Site, external: str, *, shuffle: int = 0) -> str:
    """The rules of nft(8) of a router between the devices `lan` and `wan`.

    Args:
        site: How the router treats its site.
        external: The router's own address on `wan`.
        shuffle: Not 0 for a NAT that maps each port to another one, the same for all destinations, by this number.
    """
    translation = "" if site.nat is None else _translation(site.nat, external, shuffle)
    # Only these tables: another one makes a link a black hole.
    return _without("ip translation") + _without("inet firewall") + translation + _firewall(site)


def _without(table: str) -> str:
    return f"add table {table}\ndelete table {table}\n"


def _translation(nat: Nat, external: str, shuffle: int) -> str:
    hairpin_in = hairpin_out = shuffled = ""
    if shuffle:
        if nat.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT:
            raise ValueError("the maps that let in strangers need ports that are kept")
        port = f"jhash udp sport mod 30000 seed {shuffle} offset 20000"
        shuffled = f"oifname wan meta l4proto udp snat to {external} : {port}"
    if nat.hairpinning:
        hairpin_in = f"iifname lan ip daddr {external} meta l4proto udp dnat to udp dport map @owners"
        hairpin_out = f"iifname lan oifname lan ct status dnat snat to {external}"
    fresh = " fully-random" if nat.mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT else ""
    memory = f"flags dynamic,timeout; timeout {nat.lifetime}s; size 65535;"
    return f"""
table ip translation {{
  map owners {{ type inet_service : ipv4_addr; {memory} }}
  map contacts {{ type inet_service . ipv4_addr : ipv4_addr; {memory} }}
  chain learn {{ type filter hook forward priority -10;
    iifname lan oifname wan meta l4proto udp update @owners {{ udp sport : ip saddr }}
    iifname lan oifname wan meta l4proto udp update @contacts {{ udp sport . ip daddr : ip saddr }}
  }}
  chain inward {{ type nat hook prerouting priority dstnat;
    {_STRANGERS[nat.filtering]}
    {hairpin_in}
  }}
  chain outward {{ type nat hook postrouting priority srcnat;
    {hairpin_out}
    {shuffled}
    oifname wan masquerade{fresh}
  }}
}}
"""


def _firewall(site: Site) -> str:
    inbound = "accept" if site.nat is None else "ct status dnat accept\n    meta nfproto ipv4 drop"
    # What nobody asked for must not reach the router itself: an early packet of a hole punch would take the port's
    # entry in the connection tracker, and the masquerade would have to choose another one.
    return f"""
table inet firewall {{
  chain own {{ type filter hook input priority 0; policy accept;
    ct state established,related accept
    iifname wan meta l4proto {{ tcp, udp }} drop
  }}
  chain passing {{ type filter hook forward priority 0; policy accept;
    {_EGRESS[site.egress]}
    ct state established,related accept
    ct state invalid drop
    iifname wan jump inbound
  }}
  chain inbound {{
    meta nfproto ipv6 icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
    meta nfproto ipv6 drop
    meta nfproto ipv4 {inbound}
  }}
}}
"""
