"""The oracle on networks whose answer is known."""

from __future__ import annotations

import pytest

from tests.sim.oracle import Oracle
from tests.sim.topology import (
    INTERNET,
    Dependence,
    FirewallRules,
    HostPlan,
    InterfacePlan,
    NatRules,
    RouterPlan,
    ServerPlan,
    Topology,
)

EI, AD, APD = Dependence
RELAY = ServerPlan(ip="203.0.113.1", relays=True)


def host(name: str, segment: str, ip: str) -> HostPlan:
    return HostPlan(name=name, interfaces=(InterfacePlan(name="eth0", segment=segment, ips=(ip,)),))


def router(number: int, mapping: Dependence, filtering: Dependence, **others: object) -> RouterPlan:
    rules = NatRules(mapping=mapping, filtering=filtering, hairpin=bool(others.pop("hairpin", False)))
    values: dict[str, object] = {"outer": INTERNET, "ip": f"198.51.100.{number}"} | others
    return RouterPlan(name=f"router{number}", inner=f"home{number}", nat=rules, **values)  # type: ignore[arg-type]


def judge(
    a: tuple[Dependence, Dependence] | None, b: tuple[Dependence, Dependence] | None, server: ServerPlan | None = None
) -> str:
    """What two hosts can do, each behind a router of this mapping and filtering, or on the internet."""
    routers = tuple(router(number, *each) for number, each in ((1, a), (2, b)) if each is not None)
    topology = Topology(
        hosts=(
            host("a", "home1" if a else INTERNET, "192.168.1.10" if a else "192.0.2.1"),
            host("b", "home2" if b else INTERNET, "192.168.1.10" if b else "192.0.2.2"),
        ),
        routers=routers,
        servers=(server or ServerPlan(ip="203.0.113.1"),),
    )
    return Oracle(topology, "a", "b").judge().reach


@pytest.mark.parametrize(
    ("a", "b", "reach"),
    [
        (None, None, "direct"),
        (None, (APD, APD), "direct"),
        ((EI, EI), (EI, EI), "direct"),
        ((EI, AD), (EI, AD), "direct"),
        ((EI, APD), (EI, APD), "direct"),
        ((EI, EI), (APD, APD), "direct"),
        ((EI, AD), (APD, APD), "direct"),
        ((EI, APD), (APD, APD), "none"),
        ((APD, APD), (APD, APD), "none"),
        ((AD, APD), (AD, APD), "none"),
        ((AD, APD), (EI, APD), "none"),
        ((AD, AD), (EI, AD), "direct"),
    ],
)
def test_which_nats_let_two_hosts_meet(
    a: tuple[Dependence, Dependence] | None, b: tuple[Dependence, Dependence] | None, reach: str
) -> None:
    assert judge(a, b) == judge(b, a) == reach


def test_a_relay_helps_where_nothing_else_does_and_only_there() -> None:
    assert judge((APD, APD), (APD, APD), RELAY) == "relay"
    assert judge((EI, APD), (EI, APD), RELAY) == "direct"


def test_without_an_answer_of_a_server_two_hosts_behind_filters_do_not_meet() -> None:
    assert judge((EI, APD), (EI, APD), ServerPlan(ip="203.0.113.1", answers=False)) == "none"


@pytest.mark.parametrize(("streams", "reach"), [(True, "relay"), (False, "none")])
def test_where_no_datagram_passes_a_stream_to_the_relay_does(streams: bool, reach: str) -> None:
    topology = Topology(
        hosts=(host("a", "home1", "192.168.1.10"), host("b", "home2", "192.168.1.10")),
        routers=(router(1, EI, EI, passes_udp=False), router(2, EI, APD)),
        servers=(ServerPlan(ip="203.0.113.1", relays=True, takes_streams=streams),),
    )
    assert Oracle(topology, "a", "b").judge().reach == reach


@pytest.mark.parametrize(("hairpin", "reach"), [(True, "direct"), (False, "none")])
def test_two_homes_of_one_carrier_need_its_router_to_hairpin(hairpin: bool, reach: str) -> None:
    topology = Topology(
        hosts=(host("a", "home1", "192.168.1.10"), host("b", "home2", "192.168.1.10")),
        routers=(
            router(9, EI, EI, hairpin=hairpin),
            router(1, EI, EI, outer="home9", ip="100.64.0.1"),
            router(2, EI, EI, outer="home9", ip="100.64.0.2"),
        ),
        servers=(ServerPlan(ip="203.0.113.1"),),
    )
    assert Oracle(topology, "a", "b").judge().reach == reach


@pytest.mark.parametrize(("filtering", "is_open"), [(EI, True), (APD, False)])
def test_ipv6_is_direct_through_firewalls_and_open_where_they_filter_nothing(
    filtering: Dependence, is_open: bool
) -> None:
    rules = FirewallRules(filtering=filtering)
    topology = Topology(
        hosts=(host("a", "home1", "2001:db8::a"), host("b", "home2", "2001:db8::b")),
        routers=(router(1, APD, APD, firewall=rules), router(2, APD, APD, firewall=rules)),
        servers=(),
    )
    (route,) = Oracle(topology, "a", "b").judge().routes
    assert (route.relays, route.is_open) == (0, is_open)


def test_an_interface_that_is_down_is_no_way() -> None:
    topology = Topology(hosts=(host("a", INTERNET, "192.0.2.1"), host("b", INTERNET, "192.0.2.2")), servers=(RELAY,))
    assert Oracle(topology, "a", "b", up=[("a", "eth0")]).judge().reach == "none"
