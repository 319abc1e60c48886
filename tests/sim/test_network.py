"""What the simulated network does to datagrams."""

from __future__ import annotations

import random

import pytest

from edgeice.addresses import TransportAddress
from tests.sim.links import PROBE, Fairness, Link, transaction_of
from tests.sim.nat import Nat
from tests.sim.network import Clock, Network
from tests.sim.signaling import CandidateSaid, Mailbox, Message, SignalingPlan
from tests.sim.topology import (
    INTERNET,
    Dependence,
    FirewallRules,
    HostPlan,
    InterfacePlan,
    LinkPlan,
    NatRules,
    RouterPlan,
    Topology,
)

INSIDE = TransportAddress("192.168.1.10", 4000)
PEER, OTHER_PORT = TransportAddress("192.0.2.1", 5000), TransportAddress("192.0.2.1", 5001)
OTHER = TransportAddress("192.0.2.2", 5000)


def nat(rules: NatRules) -> Nat:
    return Nat(rules, "198.51.100.1", random.Random(1))


@pytest.mark.parametrize(
    ("mapping", "same_port", "same_ip"),
    [
        (Dependence.INDEPENDENT, True, True),
        (Dependence.ADDRESS, True, False),
        (Dependence.ADDRESS_AND_PORT, False, False),
    ],
)
def test_a_nat_maps_by_what_its_mapping_depends_on(mapping: Dependence, same_port: bool, same_ip: bool) -> None:
    box = nat(NatRules(mapping=mapping, preserves_port=False))
    first, port, ip = (box.outbound(INSIDE, remote, 0.0) for remote in (PEER, OTHER_PORT, OTHER))
    assert (first == port, first == ip) == (same_port, same_ip)


@pytest.mark.parametrize(
    ("filtering", "port", "ip"),
    [
        (Dependence.INDEPENDENT, True, True),
        (Dependence.ADDRESS, True, False),
        (Dependence.ADDRESS_AND_PORT, False, False),
    ],
)
def test_a_nat_lets_in_what_its_filter_allows(filtering: Dependence, port: bool, ip: bool) -> None:
    box = nat(NatRules(filtering=filtering))
    outer = box.outbound(INSIDE, PEER, 0.0)
    assert outer == TransportAddress("198.51.100.1", 4000)
    assert box.inbound(outer.port, PEER, 1.0) == INSIDE
    assert (box.inbound(outer.port, OTHER_PORT, 1.0) is not None) is port
    assert (box.inbound(outer.port, OTHER, 1.0) is not None) is ip


@pytest.mark.parametrize("refreshed", [True, False])
def test_a_binding_ends_without_traffic_and_inbound_traffic_may_keep_it(refreshed: bool) -> None:
    box = nat(NatRules(lifetime=30.0, refreshed_by_inbound=refreshed, preserves_port=False))
    outer = box.outbound(INSIDE, PEER, 0.0)
    assert box.inbound(outer.port, PEER, 20.0) == INSIDE
    assert (box.inbound(outer.port, PEER, 40.0) == INSIDE) is refreshed
    assert (box.outbound(INSIDE, PEER, 60.0) == outer) is refreshed


def home(number: int, **router: object) -> RouterPlan:
    values: dict[str, object] = {"nat": NatRules(), "outer": INTERNET, "ip": f"198.51.100.{number}"} | router
    return RouterPlan(name=f"router{number}", inner=f"home{number}", **values)  # type: ignore[arg-type]


def host(name: str, segment: str, *ips: str) -> HostPlan:
    return HostPlan(name=name, interfaces=(InterfacePlan(name="eth0", segment=segment, ips=ips),))


class Wire:
    """A network of hosts, and what arrived: (host, data, source)."""

    def __init__(self, *hosts: HostPlan, routers: tuple[RouterPlan, ...] = ()) -> None:
        self.clock = Clock()
        topology = Topology(hosts=hosts, routers=routers)
        self.network = Network(topology, seed=1, fairness=Fairness(), clock=self.clock)
        self.arrived: list[tuple[str, bytes, TransportAddress]] = []
        for (name, _), interface in self.network.interfaces.items():
            interface.receive = lambda data, _destination, source, name=name: self.arrived.append((name, data, source))

    def send(self, name: str, source: str, target: str, port: int = 4000) -> TransportAddress | None:
        """How the receiver sees the sender; None if nothing arrives."""
        self.arrived.clear()
        here, there = TransportAddress(source, 4000), TransportAddress(target, port)
        self.network.send(self.network.interfaces[name, "eth0"], b"\x17x", here, there)
        self.clock.run(1.0)
        return self.arrived[0][2] if self.arrived else None


def test_hosts_of_one_segment_see_each_other_and_others_the_router() -> None:
    wire = Wire(
        host("a", "home1", "192.168.1.10"),
        host("b", "home1", "192.168.1.11"),
        host("c", INTERNET, "192.0.2.1"),
        routers=(home(1),),
    )
    assert wire.send("a", "192.168.1.10", "192.168.1.11") == TransportAddress("192.168.1.10", 4000)
    assert wire.send("a", "192.168.1.10", "192.0.2.1") == TransportAddress("198.51.100.1", 4000)
    assert wire.send("c", "192.0.2.1", "198.51.100.1") is not None
    assert wire.send("c", "192.0.2.1", "198.51.100.1", 4001) is None
    assert wire.network.lost["filtered"] == 1


def test_a_carriers_router_translates_what_a_home_has_translated() -> None:
    carrier = home(9, nat=NatRules(preserves_port=False))
    wire = Wire(
        host("a", "home1", "192.168.1.10"),
        host("c", INTERNET, "192.0.2.1"),
        routers=(carrier, home(1, outer="home9", ip="100.64.0.1")),
    )
    seen = wire.send("a", "192.168.1.10", "192.0.2.1")
    assert seen is not None
    assert seen.ip == "198.51.100.9"
    assert wire.send("c", "192.0.2.1", seen.ip, seen.port) == TransportAddress("192.0.2.1", 4000)


@pytest.mark.parametrize("hairpin", [True, False])
def test_two_hosts_meet_by_their_outer_addresses_only_where_the_router_hairpins(hairpin: bool) -> None:
    rules = NatRules(hairpin=hairpin, filtering=Dependence.INDEPENDENT)
    wire = Wire(
        host("a", "home1", "192.168.1.10"),
        host("b", "home1", "192.168.1.11"),
        host("c", INTERNET, "192.0.2.1"),
        routers=(home(1, nat=rules),),
    )
    outer = wire.send("b", "192.168.1.11", "192.0.2.1")
    assert outer is not None
    seen = wire.send("a", "192.168.1.10", outer.ip, outer.port)
    assert (None if seen is None else seen.ip) == ("198.51.100.1" if hairpin else None)


def test_ipv6_comes_in_only_where_something_went_out_and_not_at_all_without_a_firewall() -> None:
    wire = Wire(
        host("a", "home1", "2001:db8::a"),
        host("b", "home2", "2001:db8::b"),
        host("c", "home3", "2001:db8::c"),
        routers=(home(1, firewall=FirewallRules()), home(2, firewall=FirewallRules()), home(3)),
    )
    a, b = "2001:db8::a", "2001:db8::b"
    assert wire.send("a", a, b) is None
    assert wire.send("b", b, a) == TransportAddress(b, 4000)
    assert wire.send("a", a, b) == TransportAddress(a, 4000)
    assert wire.send("c", "2001:db8::c", a) is None


def test_no_datagram_passes_a_router_that_blocks_udp() -> None:
    wire = Wire(
        host("a", "home1", "192.168.1.10"), host("c", INTERNET, "192.0.2.1"), routers=(home(1, passes_udp=False),)
    )
    assert wire.send("a", "192.168.1.10", "192.0.2.1") is None
    assert wire.network.lost["udp_blocked"] == 1


def request(number: int) -> bytes:
    return b"\x00\x01\x00\x00\x21\x12\xa4\x42" + number.to_bytes(12)


def lost(link: Link, fairness: Fairness, number: int, times: int) -> int:
    transaction, _ = transaction_of(request(number)) or (b"", b"")
    fairness.begin(transaction, (PEER, OTHER, b""))
    return sum(not link.arrivals(request(number), transaction, 0.0) for _ in range(times))


def test_of_a_transaction_so_many_datagrams_are_lost_and_so_many_transactions_in_a_row() -> None:
    fairness = Fairness(per_transaction=3, in_row=2)
    link = Link(LinkPlan(loss=1.0), random.Random(1), fairness)
    assert [lost(link, fairness, number, 7) for number in range(6)] == [3, 3, 0, 3, 3, 0]


def test_no_link_harms_a_probe_and_data_is_lost_twice_in_a_row_at_most() -> None:
    link = Link(LinkPlan(loss=1.0, duplication=1.0), random.Random(1), Fairness())
    assert [len(link.arrivals(b"\x17x", None, 0.0)) for _ in range(6)] == [0, 0, 2, 0, 0, 2]
    assert [len(link.arrivals(PROBE, None, 0.0)) for _ in range(6)] == [1] * 6


def test_a_rate_delays_what_is_sent_at_once() -> None:
    link = Link(LinkPlan(delay=0.1, rate=1000.0), random.Random(1), Fairness())
    times = [link.arrivals(bytes([0x17]) * 72, None, 0.0)[0] for _ in range(3)]
    assert times == pytest.approx([0.2, 0.3, 0.4])


def test_signaling_puts_into_order_what_overtook_and_marks_what_came_again() -> None:
    clock, said = Clock(), list[tuple[Message, bool]]()
    plan = SignalingPlan(delay=0.01, reordering=0.5, duplication=0.5)
    mailbox = Mailbox(clock, plan, 3, lambda message, again: said.append((message, again)))
    messages = [CandidateSaid(str(number), "ufrag") for number in range(50)]
    for message in messages:
        mailbox.send(message)
    clock.run(3.0)
    assert [message for message, again in said if not again] == messages
    assert {again for _, again in said} == {True, False}
