"""The interfaces of a host as sessions see them."""

from __future__ import annotations

from edgeice.addresses import Base, TransportAddress
from edgeice.net import DefaultRoute, Interface, InterfacePolicy, Link, LinkPolicy, Snapshot
from edgeice.transport.uplinks import InterfaceReport, report, uplink

READY = 0x10041
LO = Interface(1, "lo", READY | 0x8)
ETH = Interface(2, "eth0", READY, link_class="wired")
WWAN = Interface(3, "wwan0", READY, link_class="cellular")
DOCKER = Interface(4, "docker0", READY)
SNAPSHOT = Snapshot(
    {each.index: each for each in (LO, ETH, WWAN, DOCKER)},
    frozenset({DefaultRoute(2, 4, 100), DefaultRoute(3, 4, 700), DefaultRoute(3, 6, 1024)}),
)


def base(ip: str, interface: str) -> Base:
    return Base(TransportAddress(ip, 4000), interface)


def test_what_is_used_or_was_or_leads_out_is_told_and_nothing_else() -> None:
    bases = [base("127.0.0.1", ""), base("192.0.2.7", "eth0"), base("2001:db8::7", "eth0")]
    found = report(SNAPSHOT, InterfacePolicy(), bases, {"": (1, 2), "eth0": (3, 4), "usb0": (5, 6)})
    assert found == [
        InterfaceReport(
            interface="lo", link=Link("other", 50), default_route=(), addresses=("127.0.0.1",), sent=1, received=2
        ),
        InterfaceReport(
            interface="eth0",
            link=Link("wired", 0),
            default_route=(4,),
            addresses=("192.0.2.7", "2001:db8::7"),
            sent=3,
            received=4,
        ),
        InterfaceReport(
            interface="wwan0", link=Link("cellular", 900), default_route=(6,), addresses=(), sent=0, received=0
        ),
        InterfaceReport(interface="usb0", link=None, default_route=(), addresses=(), sent=5, received=6),
    ]


def test_the_uplink_is_that_of_ipv4_then_of_ipv6_then_nothing_known() -> None:
    policy = InterfacePolicy(links=LinkPolicy(unmetered=("wwan0",)))
    assert uplink(SNAPSHOT, policy) == Link("wired", 0)
    assert uplink(Snapshot(SNAPSHOT.interfaces, frozenset({DefaultRoute(3, 6, 1024)})), policy) == Link("cellular", 100)
    assert uplink(Snapshot(SNAPSHOT.interfaces), policy) == Link("other", 0)
