"""Which sockets a node opens, and what it says of those that it does not."""

from __future__ import annotations

import errno
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from edgeice.addresses import Base
from edgeice.net import Assessed, Driver, InterfaceMonitor, InterfacePolicy, Link, LinkPolicy, UsableAddress
from edgeice.operator.verdict import verdict_lines
from edgeice.trace import Record
from edgeice.transport import NetworkChange, Node, NodeConfig, PeerConnection, open_node
from edgeice.transport.uplinks import InterfaceReport
from tests.support.flapping import flapping
from tests.support.namespace import fresh_network_namespace, ip

IPS = ("127.0.0.1", "127.0.0.2", "::1")


def free_port() -> int:
    """One that nothing on loopback has at the moment, nor the one after it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return min(int(sock.getsockname()[1]), 65000)


def batch(commands: str) -> None:
    """Configure the present namespace with several of iproute2's commands, quicker than any change is told."""
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True, capture_output=True)


async def test_every_address_gets_the_first_free_port_of_the_range() -> None:
    first = free_port()
    config = NodeConfig(loopback=IPS, interfaces=False, ports=range(first, first + 2))
    async with open_node(config) as node:
        assert [(base.address.ip, base.address.port) for base in node.bases] == [(ip, first) for ip in IPS]
        async with open_node(config) as other:
            assert {base.address.port for base in other.bases} == {first + 1}
            async with open_node(config) as third:
                assert third.bases == []
                why = "its socket cannot be opened: Address already in use"
                assert third.left_out() == [Assessed("", ip, why) for ip in IPS]


async def test_what_is_left_out_is_traced_once() -> None:
    first = free_port()
    records: list[Record] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((IPS[0], first))
        config = NodeConfig(loopback=IPS[:2], interfaces=False, ports=range(first, first + 1))
        async with open_node(config, tracer=records.append) as node:
            node.reconfigure(config)
    told = [dict(record.fields) for record in records if record.name == "left_out"]
    assert told == [{"interface": "", "ip": IPS[0], "why": "its socket cannot be opened: Address already in use"}]


async def test_another_range_moves_the_sockets_that_are_outside_of_it() -> None:
    first = free_port()
    wide, narrow = range(first, first + 2), range(first + 1, first + 2)
    config = NodeConfig(loopback=IPS[:1], interfaces=False, ports=wide)
    async with open_node(config) as node:
        (before,) = node.bases
        node.reconfigure(NodeConfig(loopback=IPS[:1], interfaces=False, ports=range(first, first + 9)))
        assert node.bases == [before]
        node.reconfigure(NodeConfig(loopback=IPS[:1], interfaces=False, ports=narrow))
        assert [base.address.port for base in node.bases] == [first + 1]
        assert node.left_out() == []


@pytest.mark.root
async def test_an_uplink_without_a_way_out_is_told_with_the_kernels_reason() -> None:
    make = "link add eth0 type veth peer name veth0\nlink set veth0 addrgenmode none up\nlink set lo up\n"
    make += "link set eth0 addrgenmode none up\naddr add 2001:db8::7/64 dev eth0 nodad\n"
    server = "stun:[2001:db8:ffff::1]:3478"
    with fresh_network_namespace():
        batch(make)
        async with open_node(NodeConfig(stun=(server,))) as node:
            peer = node.connection(offerer=True)
            with trio.fail_after(5):
                while not (found := _told(node, peer))["bases"][0]["unsent"]:  # noqa: ASYNC110  # the kernel's to say
                    await trio.sleep(0.01)
            (base,) = found["bases"]
            assert (base["interface"], list(base["unsent"])) == ("eth0", ["ENETUNREACH"])
            assert [(each["server"], each["result"]) for each in found["servers"]] == [(server, "asked")]
            words = list(verdict_lines(found))
            assert any(
                line.startswith(f"could not send from {base['address']} (eth0): the network cannot be reached")
                for line in words
            )
            assert " typ host" in peer.create_offer()  # and the session goes on with what there is


def _told(node: Node, peer: PeerConnection) -> dict[str, Any]:
    return node.verdict(peer)


@pytest.mark.root
async def test_a_device_that_comes_back_under_its_name_gets_a_new_socket() -> None:
    """As a modem does that starts anew: all at once, as far as can be seen from here."""
    make = "link add wwan0 type veth peer name veth0\nlink set veth0 addrgenmode none up\n"
    make += "link set wwan0 addrgenmode none up\naddr add 198.51.100.7/24 dev wwan0\n"
    with fresh_network_namespace():
        batch(make)
        async with open_node(NodeConfig()) as node:
            (before,) = node.bases
            batch(f"link del wwan0\n{make}")
            with trio.fail_after(5):
                while node.bases in ([before], []):  # noqa: ASYNC110  # the kernel's to say
                    await trio.sleep(0.01)
            (after,) = node.bases
            assert (after.interface, after.address.ip) == ("wwan0", "198.51.100.7")
            assert after != before


@pytest.mark.root
async def test_two_networks_that_give_the_same_address_get_a_base_each() -> None:
    with fresh_network_namespace():
        for name in ("eth0", "wlan0"):
            ip(*f"link add {name} type veth peer name veth-{name}".split())
            for end in (name, f"veth-{name}"):
                ip(*f"link set {end} addrgenmode none up".split())
            ip(*f"addr add 192.168.1.7/24 dev {name}".split())
        first = 40000
        async with open_node(NodeConfig(ports=range(first, first + 2))) as node:
            assert {(base.interface, base.address.port) for base in node.bases} == {
                ("eth0", first),
                ("wlan0", first + 1),
            }
            node.reconfigure(NodeConfig(ports=range(first, first + 1)))
            assert [(base.interface, base.address.port) for base in node.bases] == [("eth0", first)]
            assert ("wlan0", "192.168.1.7") in [(each.interface, each.ip) for each in node.left_out()]


@pytest.mark.root
async def test_ice_01_02_every_family_of_every_interface_has_a_socket_that_is_pinned_and_the_rest_its_reason() -> None:
    names = ("eth0", "wlan0", "docker0", "wwan0")
    with fresh_network_namespace():
        for name in names:
            ip(*f"link add {name} type veth peer name veth-{name}".split())
            for end in (name, f"veth-{name}"):
                ip(*f"link set {end} addrgenmode none".split())
        for name in names[:3]:
            for end in (name, f"veth-{name}"):
                ip(*f"link set {end} up".split())
        tempaddr = Path("/proc/sys/net/ipv6/conf/wlan0")
        (tempaddr / "use_tempaddr").write_text("2")
        (tempaddr / "dad_transmits").write_text("0")
        for command in (
            "link set lo up",
            "addr add 192.0.2.7/24 dev eth0",
            "addr add 2001:db8::7/64 dev eth0 nodad",
            "addr add 2001:db8:1::7/64 dev eth0 nodad preferred_lft 0",
            "addr add 198.51.100.7/24 dev wlan0",
            "addr add 2001:db8:2::7/64 dev wlan0 nodad mngtmpaddr",  # the kernel makes a privacy address beside it
            "addr add 172.17.0.1/16 dev docker0",
        ):
            ip(*command.split())
        with InterfaceMonitor() as monitor:
            (private,) = [
                address.ip
                for found in (monitor.read()).interfaces.values()
                for address in found.addresses
                if address.is_temporary
            ]
        async with open_node(NodeConfig()) as node:
            with trio.fail_after(5):
                while private not in {base.address.ip for base in node.bases}:  # noqa: ASYNC110  # the kernel's to say
                    await trio.sleep(0.01)  # until then it is tentative
            assert {(base.interface, base.address.ip) for base in node.bases} == {
                ("eth0", "192.0.2.7"),
                ("eth0", "2001:db8::7"),
                ("wlan0", "198.51.100.7"),
                ("wlan0", private),
            }
            assert "net.unpinned" not in node.drops()
            assert {(each.interface, each.ip, each.why) for each in node.left_out()} == {
                ("lo", "", "loopback: reaches only this host"),
                ("eth0", "2001:db8:1::7", "deprecated: about to go"),
                ("wlan0", "2001:db8:2::7", "another, privacy address of the same network is used instead"),
                ("docker0", "", "docker*: container bridge: reaches only containers of this host"),
                ("wwan0", "", "is set down"),
                *((f"veth-{name}", "", "veth*: one end of a container's link") for name in names),
            }


def uplink(name: str, address: str) -> str:
    """Commands that make an interface with one address, whose other end is `far-NAME`."""
    make = f"link add {name} type veth peer name far-{name}\nlink set far-{name} addrgenmode none up\n"
    return f"{make}link set {name} addrgenmode none up\naddr add {address} dev {name}\n"


@pytest.mark.root
async def test_a_change_is_told_with_its_reasons_and_what_can_be_used_then() -> None:
    changes: list[NetworkChange] = []
    policy = InterfacePolicy(
        exclude=("wlan*", "far-*"), links=LinkPolicy(wired=("eth*",), cellular=("wwan*",), metered=("eth1",))
    )
    eth0, wlan0 = UsableAddress("192.0.2.7", "eth0", 0), UsableAddress("198.51.100.7", "wlan0", 50)
    wwan0, eth1 = UsableAddress("203.0.113.7", "wwan0", 900), UsableAddress("192.0.2.8", "eth1", 900)
    with fresh_network_namespace():
        batch(uplink("wwan0", "203.0.113.7/24") + uplink("eth0", "192.0.2.7/24") + uplink("wlan0", "198.51.100.7/24"))
        batch("route add default via 192.0.2.1 metric 100\nroute add default via 203.0.113.1 metric 700\n")
        async with open_node(NodeConfig(policy=policy), on_network=changes.append) as node:
            assert node.usable == [wwan0, eth0]
            assert {base.interface: base.cost for base in node.bases} == {"eth0": 0, "wwan0": 900}
            assert node.host_addresses == [eth0, wlan0, wwan0]  # what the configuration leaves out works, too
            batch("link set far-eth0 down\n")
            with trio.fail_after(5):
                while not changes:  # noqa: ASYNC110  # the kernel's to say
                    await trio.sleep(0.001)
            assert changes[0].reasons[0] == "carrier lost on eth0"
            assert "default route moved from eth0 to wwan0" in changes[0].reasons
            assert changes[0].usable == (wwan0,)
            assert changes[0].host_addresses == (wlan0, wwan0)
            assert node.usable == [wwan0]
            batch(uplink("eth1", "192.0.2.8/24"))
            with trio.fail_after(5):
                while eth1 not in changes[-1].usable:  # noqa: ASYNC110  # as above
                    await trio.sleep(0.001)
            assert changes[-1].host_addresses == (wlan0, wwan0, eth1)


@pytest.mark.root
async def test_a_renamed_interface_gets_new_sockets_and_a_new_class() -> None:
    changes: list[NetworkChange] = []
    policy = InterfacePolicy(exclude=("far-*",), links=LinkPolicy(wired=("eth*",), cellular=("wwan*",)))
    with fresh_network_namespace():
        batch(uplink("eth0", "192.0.2.7/24"))
        async with open_node(NodeConfig(policy=policy), on_network=changes.append) as node:
            (before,) = node.bases
            batch("link set eth0 down\nlink set eth0 name wwan0\nlink set wwan0 up\n")
            with trio.fail_after(5):
                while [base.interface for base in node.bases] != ["wwan0"]:  # noqa: ASYNC110  # the kernel's to say
                    await trio.sleep(0.001)
            (after,) = node.bases
            assert (after.interface, after.cost, after.address.ip) == ("wwan0", 900, "192.0.2.7")
            assert after.address != before.address
            assert "eth0 renamed to wwan0" in [reason for change in changes for reason in change.reasons]


@pytest.mark.root
async def test_traffic_counts_on_when_an_interface_comes_back_and_is_told_with_what_it_is() -> None:
    policy = InterfacePolicy(exclude=("far-*",), links=LinkPolicy(cellular=("wwan*",)))
    server = "stun:192.0.2.1:3478"  # nobody is there
    with fresh_network_namespace():
        batch(uplink("wwan0", "192.0.2.7/24") + "neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev wwan0\n")
        batch("route add default via 192.0.2.1 dev wwan0\n")
        async with open_node(NodeConfig(policy=policy, stun=(server,))) as node:

            def told() -> InterfaceReport:
                (found,) = [each for each in node.interfaces() if each.interface == "wwan0"]
                return found

            node.connection()
            with trio.fail_after(5):
                while not told().sent:  # noqa: ASYNC110  # the driver's to send
                    await trio.sleep(0.001)
            assert told().sent % 28 == 0  # binding requests
            assert attrs.evolve(told(), sent=0) == InterfaceReport(
                interface="wwan0",
                link=Link("cellular", 900),
                default_route=(4,),
                addresses=("192.0.2.7",),
                sent=0,
                received=0,
            )
            assert node.uplink == Link("cellular", 900)
            sent = told().sent
            batch("link del wwan0\n")
            with trio.fail_after(5):
                while node.bases:  # noqa: ASYNC110  # the kernel's to say
                    await trio.sleep(0.001)
            gone = told()
            assert (gone.link, gone.default_route, gone.addresses) == (None, (), ())
            assert gone.sent >= sent
            assert node.uplink == Link("other", 0)
            batch(uplink("wwan0", "192.0.2.8/24") + "neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev wwan0\n")
            with trio.fail_after(5):
                while told().sent <= gone.sent:  # noqa: ASYNC110  # as above
                    await trio.sleep(0.001)
            assert told().addresses == ("192.0.2.8",)


@pytest.mark.root
async def test_a_socket_that_could_not_be_opened_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address may be there again, and nothing have changed as far as can be seen."""
    monkeypatch.setattr("edgeice.transport.node._RETRY", 0.05)
    nothing_there = iter([OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")] * 2)
    open_base = Driver.open_base

    def refused_twice(driver: Driver, *arguments: Any) -> Base:
        for error in nothing_there:
            raise error
        return open_base(driver, *arguments)

    monkeypatch.setattr(Driver, "open_base", refused_twice)
    with fresh_network_namespace():
        batch(uplink("eth0", "192.0.2.7/24"))
        async with open_node(NodeConfig(policy=InterfacePolicy(exclude=("far-*",)))) as node:
            assert node.bases == []
            assert Assessed("eth0", "192.0.2.7", "its socket cannot be opened: Cannot assign requested address") in (
                node.left_out()
            )
            with trio.fail_after(5):
                while not node.bases:  # noqa: ASYNC110  # the node's own time
                    await trio.sleep(0.001)
            assert [each.ip for each in node.left_out()] == ["", ""]


def living() -> tuple[int, int]:
    """Open files and tasks."""
    return len(list(Path("/proc/self/fd").iterdir())), trio.lowlevel.current_statistics().tasks_living


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["address", "carrier", "down"])
async def test_what_flaps_a_hundred_times_a_second_costs_little_and_leaves_nothing_behind(fault: str) -> None:
    changes: list[NetworkChange] = []
    with fresh_network_namespace():
        batch(uplink("eth0", "192.0.2.7/24") + uplink("wlan0", "198.51.100.7/24"))
        config = NodeConfig(policy=InterfacePolicy(exclude=("far-*",)))
        async with open_node(config, on_network=changes.append) as node:
            before = living()
            with flapping(fault):
                with trio.fail_after(10):
                    while not changes:  # noqa: ASYNC110  # the kernel's to say
                        await trio.sleep(0.01)
                cpu, since = time.process_time(), trio.current_time()
                await trio.sleep(2.0)
                # Opening the sockets of the first four times costs most.
                assert time.process_time() - cpu < 0.05 * (trio.current_time() - since) + 0.02
            reasons = [reason for change in changes for reason in change.reasons]
            what = "address 192.0.2.7 on eth0" if fault == "address" else "eth0"
            assert f"{what} held back for 8 s: went away 5 times within 30 s" in reasons
            assert len(reasons) < 40
            assert [base.interface for base in node.bases] == ["wlan0"]
            files, tasks = living()
            assert (files + 1, tasks + 1) == before  # a socket and its task for the base that is gone
