"""What happens to links and routers of the laboratory, and hosts with several of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.lab.lab import Host, Impairment, Lab, missing_for_routers
from tests.lab.meeting import meet
from tests.lab.namespaces import ip
from tests.lab.nat import APDM_APDF, EIM_APDF, EIM_EIF
from tests.lab.networks import Router
from tests.lab.probe import Probe
from tests.lab.services import Coturn, coturn
from tests.support.coturn import COTURN

_MISSING = missing_for_routers() or (None if COTURN else "needs coturn")

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)),
]


@attrs.frozen
class Home:
    """A host behind a router, and a STUN server on the internet."""

    lab: Lab
    turn: Coturn
    server: Host
    router: Router
    host: Host

    def probe(self) -> Probe:
        return Probe(self.host, self.host.uplinks["eth0"].address)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with Lab() as lab:
        server = lab.public_host("server", addresses=2)
        router, host = lab.router("home", nat=APDM_APDF, ipv6=True), lab.host("pi")
        lab.connect(host, router)
        with coturn(server, tmp_path) as turn:
            lab.settle()
            yield Home(lab, turn, server, router, host)


def flags(host: Host, device: str) -> list[str]:
    link: list[str] = json.loads(ip("-n", host.namespace, "-json", "link", "show", device))[0]["flags"]
    return link


def test_a_black_hole_takes_everything_and_tells_nobody(home: Home) -> None:
    uplink = home.host.uplinks["eth0"]
    with home.probe() as probe:
        assert probe.mapped(home.turn.address)
        uplink.blackhole()
        assert probe.mapped(home.turn.address, wait=0.3) is None
        assert "NO-CARRIER" not in flags(home.host, "eth0")
        uplink.blackhole(on=False)
        assert probe.mapped(home.turn.address)


@pytest.mark.parametrize("emulated", [False, True])
def test_an_unplugged_link_has_no_carrier_and_keeps_its_address_without_a_manager(
    home: Home, *, emulated: bool
) -> None:
    host = home.host
    uplink = home.lab.connect(host, home.router, "wlan0", metric=50, emulated=emulated)
    home.lab.settle()
    with Probe(host, uplink.address) as probe:
        assert probe.mapped(home.turn.address)
        uplink.unplug()
        assert "NO-CARRIER" in flags(host, "wlan0")
        assert probe.mapped(home.turn.address, wait=0.3) is None
        uplink.plug()
        assert "NO-CARRIER" not in flags(host, "wlan0")
        assert probe.mapped(home.turn.address, wait=5, tries=20)
        uplink.unplug(managed=True)
        assert uplink.address not in ip("-n", host.namespace, "address")
        uplink.plug()
        assert probe.mapped(home.turn.address, wait=5, tries=20)


def test_a_device_that_is_set_down_and_up_again_works(home: Home) -> None:
    uplink = home.host.uplinks["eth0"]
    with home.probe() as probe:
        uplink.down()
        assert "UP" not in flags(home.host, "eth0")
        assert probe.mapped(home.turn.address, wait=0.2) is None
        uplink.up()
        assert probe.mapped(home.turn.address, wait=5, tries=20)


def test_a_device_may_get_another_address(home: Home) -> None:
    uplink = home.host.uplinks["eth0"]
    old = uplink.address
    uplink.readdress("192.168.1.77")
    assert uplink.address == "192.168.1.77"
    assert old not in ip("-n", home.host.namespace, "address")
    with home.probe() as probe:
        assert probe.mapped(home.turn.address)


def test_a_device_may_lose_its_address(home: Home) -> None:
    uplink = home.host.uplinks["eth0"]
    uplink.remove_address()
    assert uplink.address not in ip("-n", home.host.namespace, "address")
    assert "default" not in ip("-n", home.host.namespace, "-4", "route")


def test_a_router_may_come_back_with_other_ports(home: Home) -> None:
    """Another one than before, and the same for all destinations."""
    router, host = home.lab.router("shuffling", nat=EIM_APDF, lan="192.168.7.0/24"), home.lab.host("shuffled")
    address = home.lab.connect(host, router).address
    home.lab.settle()
    with Probe(host, address) as probe:
        mapped = [{probe.mapped(server) for server in home.server.addresses}]
        for _ in range(2):
            router.reboot(lambda: None, new_ports=True)
            assert probe.mapped(home.turn.address, wait=5, tries=20)
            mapped.append({probe.mapped(server) for server in home.server.addresses})
    assert [len(each) for each in mapped] == [1, 1, 1]
    assert None not in set.union(*mapped)
    assert len(set.union(*mapped)) == 3


def test_a_router_may_get_another_address_outside(home: Home) -> None:
    with home.probe() as probe:
        before = probe.mapped(home.turn.address)
        old = home.router.public
        new = home.router.renumber()
        after = probe.mapped(home.turn.address, wait=5, tries=20)
    assert before is not None
    assert after is not None
    assert (before[0], after[0]) == (old, new)
    assert old != new


@pytest.mark.parametrize("event", ["flush", "reboot"])
def test_a_router_forgets_its_mappings(home: Home, event: str) -> None:
    with home.probe() as probe:
        before = probe.mapped(home.turn.address)
        assert probe.mapped(home.turn.address) == before  # as long as it is kept
        if event == "flush":
            home.router.flush()
        else:
            answers: list[object] = []
            home.router.reboot(lambda: answers.append(probe.mapped(home.turn.address, wait=0.3)))
            assert answers == [None]
        after = probe.mapped(home.turn.address, wait=5, tries=20)
    assert before is not None
    assert after is not None
    assert after[0] == before[0]
    assert after[1] != before[1]  # ports are drawn at random


def test_ipv6_is_let_in_only_where_it_answers(home: Home) -> None:
    inside, outside = home.host.uplinks["eth0"].address6, home.server.uplinks["eth0"].address6
    assert inside is not None
    assert outside is not None
    with Probe(home.host, inside) as probe, Probe(home.server, outside) as stranger:
        # Neighbors have to find each other first, which costs the datagrams of that moment.
        assert probe.mapped(home.turn.address6, wait=10, tries=20) == probe.socket.getsockname()[:2]
        probe.socket.settimeout(0.3)
        stranger.socket.sendto(b"unasked", probe.socket.getsockname()[:2])
        with pytest.raises(TimeoutError):
            probe.socket.recv(100)
        probe.socket.sendto(b"asked", stranger.socket.getsockname()[:2])
        stranger.socket.sendto(b"answer", probe.socket.getsockname()[:2])
        assert probe.socket.recv(100) == b"answer"


def test_an_emulated_uplink_is_as_slow_as_asked(home: Home) -> None:
    uplink = home.lab.connect(home.host, home.router, "wlan0", metric=50, emulated=True)
    home.lab.settle()
    uplink.impair(Impairment(delay=0.03))
    with Probe(home.host, uplink.address) as probe:
        assert probe.mapped(home.turn.address)  # and its neighbors know each other
        begun = time.monotonic()
        assert probe.mapped(home.turn.address)
        assert time.monotonic() - begun >= 0.06


# Hosts with several uplinks

_DEVICES = {"eth0": 100, "wlan0": 600, "wwan0": 700}


@attrs.frozen
class Roamer:
    """A host with three uplinks and no policy routing, as a Raspberry Pi has them."""

    lab: Lab
    turn: Coturn
    host: Host
    routers: dict[str, Router]


@pytest.fixture
def roamer(tmp_path: Path) -> Iterator[Roamer]:
    with Lab() as lab:
        server, host = lab.public_host("server", addresses=2), lab.host("pi")
        routers = {
            device: lab.router(device, nat=EIM_APDF, lan=f"192.168.{number}.0/24")
            for number, device in enumerate(_DEVICES)
        }
        for device, router in routers.items():
            lab.connect(host, router, device, metric=_DEVICES[device])
        with coturn(server, tmp_path) as turn:
            lab.settle()
            yield Roamer(lab, turn, host, routers)


def test_without_policy_routing_only_a_pinned_socket_finds_its_way(roamer: Roamer) -> None:
    wlan0 = roamer.host.uplinks["wlan0"]
    with Probe(roamer.host, wlan0.address) as bound, Probe(roamer.host, wlan0.address, "wlan0") as pinned:
        assert bound.mapped(roamer.turn.address, wait=0.3) is None
        mapped = pinned.mapped(roamer.turn.address)
    assert mapped is not None
    assert mapped[0] == roamer.routers["wlan0"].public


def test_with_policy_routing_a_bound_socket_finds_its_way(roamer: Roamer) -> None:
    router = roamer.lab.router("policy", nat=EIM_EIF, lan="192.168.9.0/24")
    uplink = roamer.lab.connect(roamer.host, router, "usb0", metric=800, policy_routing=True)
    roamer.lab.settle()
    with Probe(roamer.host, uplink.address) as probe:
        mapped = probe.mapped(roamer.turn.address)
    assert mapped is not None
    assert mapped[0] == router.public


async def test_the_uplink_that_lets_udp_through_is_found(roamer: Roamer) -> None:
    """Two of three uplinks are there, with addresses and routes, and lead nowhere."""
    other = roamer.lab.host("other")
    roamer.lab.connect(other, roamer.lab.router("other", nat=EIM_APDF))
    roamer.host.uplinks["eth0"].blackhole()
    roamer.host.uplinks["wwan0"].blackhole()
    meeting = await meet((roamer.host, other), ("edgeice", "edgeice"), ice_servers=roamer.turn.ice_servers("stun"))
    assert meeting.is_connected
    here, there = (end.pair for end in meeting.ends)
    assert here is not None
    assert there is not None
    assert here.local.rpartition(":")[0] == roamer.host.uplinks["wlan0"].address
    assert there.remote.rpartition(":")[0] == roamer.routers["wlan0"].public
