"""Where nothing is ever sent to, whatever a peer names (RFC 8445 §19.5.1)."""

from __future__ import annotations

import ipaddress

import attrs
import pytest

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import IceConfig
from edgeice.ice.destinations import Destinations
from tests.support.ice_pair import World, address

LOCAL = {4: TransportAddress("192.0.2.1", 4000), 6: TransportAddress("2001:db8::1", 4000)}
LINK_LOCAL = {4: TransportAddress("169.254.7.1", 4000), 6: TransportAddress("fe80::1", 4000, scope="eth0")}


def meet(world: World, victim: TransportAddress) -> World:
    """A has an address of each kind and family, and B names a victim as its own."""
    for base in (*LOCAL.values(), *LINK_LOCAL.values()):
        world.a.ice.base_added(Base(base, "eth0"), now=world.now)
    world.a.drain()
    world.b.add_base(address(2))
    template, ufrag = world.b.candidates[0]
    world.b.candidates[:] = [(attrs.evolve(template, address=victim), ufrag)]
    world.b.describe_to(world.a)
    world.run(20.0)
    return world


def answered(world: World, victim: TransportAddress) -> World:
    """A check of B that comes from there, or seems to, teaches no candidate."""
    local, remote = world.b.ice.local_credentials, world.a.ice.local_credentials
    attributes: list[tuple[int, object]] = [
        (stun.Attribute.USERNAME, f"{remote.ufrag}:{local.ufrag}"),
        (stun.Attribute.PRIORITY, 1862270975),
        (stun.Attribute.ICE_CONTROLLED, 1),
    ]
    check = stun.encode(stun.Method.BINDING, stun.MessageClass.REQUEST, b"c" * 12, attributes, key=remote.key)
    world.a.ice.receive_stun(check, Path(LOCAL[victim.family], victim), now=world.now)
    world.a.drain()
    world.run(20.0)
    return world


def checks(world: World) -> list[TransportAddress]:
    messages = [(sent.path.remote, stun.decode(sent.data)) for sent in world.a.sent]
    return [to for to, message in messages if message.message_class is stun.MessageClass.REQUEST]


@pytest.mark.parametrize(
    ("ip", "reason"),
    [
        ("127.0.0.1", "destination_loopback"),
        ("127.255.255.255", "destination_loopback"),
        ("::1", "destination_loopback"),
        ("0.0.0.0", "destination_reserved"),
        ("0.1.2.3", "destination_reserved"),
        ("224.0.0.1", "destination_multicast"),
        ("239.255.255.250", "destination_multicast"),
        ("ff02::1", "destination_multicast"),
        ("255.255.255.255", "destination_multicast"),
        ("240.0.0.1", "destination_reserved"),
        ("::", "destination_reserved"),
        ("::192.0.2.9", "destination_reserved"),
        ("::ffff:192.0.2.9", "destination_reserved"),
        ("::ffff:127.0.0.1", "destination_reserved"),
        ("fec0::1", "destination_reserved"),
        # What a translator would carry to such an address.
        ("64:ff9b::7f00:1", "destination_loopback"),
        ("64:ff9b::a9fe:a9fe", "destination_denied"),
        ("2002:7f00:1::1", "destination_loopback"),
    ],
)
def test_host_10_nothing_is_sent_to_an_address_that_no_agent_has(ip: str, reason: str) -> None:
    victim = TransportAddress(ip, 5000)
    for world in (meet(World(), victim), answered(meet(World(), address(9)), victim)):
        assert victim not in checks(world)
        assert world.a.ice.drops[reason] == 1


def test_host_10_port_zero_is_no_destination() -> None:
    world = meet(World(), TransportAddress("192.0.2.9", 0))
    assert checks(world) == []
    assert world.a.ice.drops["destination_port"] == 1


@pytest.mark.parametrize("port", [22, 25, 53])
@pytest.mark.parametrize("ip", ["192.0.2.9", "2001:db8::9"])
def test_host_11_ports_of_well_known_services_are_not_knocked_at(ip: str, port: int) -> None:
    world = meet(World(), TransportAddress(ip, port))
    assert checks(world) == []
    assert world.a.ice.drops["destination_port"] == 1


@pytest.mark.parametrize(
    "ip",
    [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    ],
)
def test_host_11_metadata_services_are_not_asked(ip: str) -> None:
    world = meet(World(), TransportAddress(ip, 80))
    assert checks(world) == []
    assert world.a.ice.drops["destination_denied"] == 1


def test_host_11_link_local_addresses_are_reached_from_link_local_ones_only() -> None:
    for victim in (TransportAddress("169.254.7.9", 5000), TransportAddress("fe80::9", 5000)):
        world = meet(World(), victim)
        senders = {sent.path.local for sent in world.a.sent}
        assert senders == {LINK_LOCAL[victim.family]}
    for victim in (TransportAddress("192.0.2.9", 5000), TransportAddress("2001:db8::9", 5000)):
        senders = {sent.path.local for sent in meet(World(), victim).a.sent}
        assert senders == {LOCAL[victim.family]}


def networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


@pytest.mark.parametrize(
    ("allowed", "denied", "ip", "reached"),
    [
        ((), ("192.0.2.0/28", "2001:db8::/32"), "192.0.2.9", False),
        ((), ("192.0.2.0/28", "2001:db8::/32"), "192.0.2.16", True),
        ((), ("192.0.2.0/28", "2001:db8::/32"), "2001:db8:5::1", False),
        ((), ("192.0.2.0/28", "2001:db8::/32"), "2001:db9::1", True),
        (("192.0.2.0/24",), (), "192.0.2.9", True),
        (("192.0.2.0/24",), (), "198.51.100.9", False),
        (("192.0.2.0/24",), (), "2001:db8::9", False),
        (("192.0.2.0/24",), ("192.0.2.8/29",), "192.0.2.9", False),
        # No list opens what nothing may be sent to.
        (("0.0.0.0/0",), (), "127.0.0.1", False),
    ],
)
def test_host_11_networks_are_left_out_or_alone_allowed_as_configured(
    allowed: tuple[str, ...], denied: tuple[str, ...], ip: str, *, reached: bool
) -> None:
    config = IceConfig(peer_networks=networks(*allowed), exclude_peer_networks=networks(*denied))
    victim = TransportAddress(ip, 5000)
    world = meet(World(config=config), victim)
    assert (victim in checks(world)) is reached
    dropped = world.a.ice.drops["destination_denied"] + world.a.ice.drops["destination_loopback"]
    assert dropped == (not reached)


def test_host_11_own_servers_are_refused_by_address_and_port() -> None:
    server, relayed = TransportAddress("192.0.2.9", 3478), TransportAddress("192.0.2.9", 50000)
    for victim in (server, relayed):
        world = World()
        world.a.ice._shared.destinations.protect(server)
        meet(world, victim)
        assert (victim in checks(world)) is (victim is relayed)
        assert world.a.ice.drops["destination_protected"] == (victim is server)


def test_host_11_a_server_that_becomes_known_later_gets_no_check_of_a_pair_that_waits() -> None:
    server, other = TransportAddress("192.0.2.9", 3478), TransportAddress("192.0.2.8", 5000)
    world = World()
    world.a.add_base(address(1))
    world.b.add_base(address(2))
    template, ufrag = world.b.candidates[0]
    world.b.candidates[:] = [
        (attrs.evolve(template, foundation=str(priority), priority=priority, address=each), ufrag)
        for each, priority in ((other, 2), (server, 1))
    ]
    world.b.describe_to(world.a)
    assert checks(world) == [other]
    world.a.ice._shared.destinations.protect(server)
    world.run(20.0)
    assert set(checks(world)) == {other}
    pair = world.a.ice._slots.current.checklist.get(address(1), server)
    assert pair is not None
    assert pair.result == "destination_protected"


def test_host_11_own_servers_fill_no_table() -> None:
    destinations = Destinations()
    for port in range(1000, 3000):
        destinations.protect(TransportAddress("192.0.2.9", port))
    assert len(destinations._protected) == 256
    assert destinations.refuses(TransportAddress("192.0.2.9", 2999)) == "destination_protected"
    assert destinations.refuses(TransportAddress("192.0.2.9", 1000)) is None
