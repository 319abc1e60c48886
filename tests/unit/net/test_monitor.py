"""The monitor on the kernel's own rtnetlink: this machine's interfaces, and a namespace where they change."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from edgeice.net import InterfaceMonitor, InterfacePolicy, Snapshot, delta, usable_addresses
from tests.support.namespace import fresh_network_namespace, ip


@pytest.fixture
def namespace() -> Iterator[None]:
    with fresh_network_namespace():
        yield


def ips(snapshot: Snapshot, name: str) -> set[str]:
    return {each.ip for found in snapshot.interfaces.values() if found.name == name for each in found.addresses}


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_reads_the_interfaces_of_this_machine() -> None:
    with InterfaceMonitor() as monitor:
        snapshot = monitor.read()
    assert {index: each.name for index, each in snapshot.interfaces.items()} == dict(socket.if_nameindex())
    loopback = next(each for each in snapshot.interfaces.values() if each.is_loopback)
    assert (loopback.name, loopback.is_up, "127.0.0.1" in ips(snapshot, "lo")) == ("lo", True, True)
    for each in usable_addresses(snapshot, InterfacePolicy()):
        with socket.socket(socket.AF_INET6 if ":" in each.ip else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((each.ip, 0))  # what is called usable can be bound
        assert each.interface != "lo"


async def test_leaves_no_socket_behind() -> None:
    before = open_files()
    with InterfaceMonitor() as monitor:
        monitor.read()
    assert open_files() == before


@pytest.mark.root
@pytest.mark.parametrize("gone", ["link del d0", "link set d0 down"])
async def test_tells_every_change_in_words(namespace: None, gone: str) -> None:
    with InterfaceMonitor() as monitor:
        before = monitor.read()
        for commands, expected in (
            (["link add d0 type veth peer name p0"], {"d0 added", "p0 added"}),
            # Without a link-local address nothing comes later by itself.
            (["link set d0 addrgenmode none", "link set p0 addrgenmode none"], set()),
            (["addr add 192.0.2.1/24 dev d0"], {"address 192.0.2.1 added to d0"}),
            (["link set d0 up", "link set p0 up"], {"d0 set up", "p0 set up"}),
            (
                ["addr del 192.0.2.1/24 dev d0", "addr add 192.0.2.2/24 dev d0"],
                {"address 192.0.2.1 removed from d0", "address 192.0.2.2 added to d0"},
            ),
            (["link set p0 down"], {"p0 set down", "carrier lost on d0"}),
            (["link set p0 up"], {"p0 set up", "carrier found on d0"}),
            ([gone], {"d0 removed", "p0 removed"} if "del" in gone else {"d0 set down", "carrier lost on p0"}),
        ):
            for command in commands:
                ip(*command.split())
            told: list[str] = []
            with trio.fail_after(5):
                while not expected <= set(told):
                    after = await monitor.changed()
                    told += delta(before, after)
                    before = after
            # A link that goes up may pass through more states on the way, but nothing else is told, or told twice.
            assert set(told) - expected <= {f"carrier found on {name}" for name in ("d0", "p0")}
            assert len(told) == len(set(told))
        assert monitor.errors == 0


@pytest.mark.root
async def test_change_that_changes_nothing_is_not_told(namespace: None) -> None:
    ip("link", "set", "lo", "up")
    with InterfaceMonitor() as monitor:
        monitor.read()
        ip("link", "set", "lo", "alias", "a name for people")
        with trio.move_on_after(0.1) as scope:
            await monitor.changed()
        assert scope.cancelled_caught
        ip("addr", "add", "127.0.0.2/8", "dev", "lo")
        with trio.fail_after(5):
            assert "127.0.0.2" in ips(await monitor.changed(), "lo")


@pytest.mark.root
async def test_overrun_leads_to_a_fresh_dump(namespace: None) -> None:
    ip("link", "set", "lo", "up")
    with InterfaceMonitor() as monitor:
        monitor.read()
        monitor._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for number in range(1, 40):
            ip("addr", "add", f"198.51.100.{number}/32", "dev", "lo")
        with trio.fail_after(5):
            snapshot = await monitor.changed()
        assert monitor.errors > 0
    assert ips(snapshot, "lo") >= {f"198.51.100.{number}" for number in range(1, 40)}


async def test_messages_from_other_processes_are_not_believed() -> None:
    with InterfaceMonitor() as monitor, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as other:
        before = monitor.read()
        other.bind((0, 0))
        try:
            other.sendto(b"forged", (monitor._events.getsockname()[0], 0))
        except PermissionError:
            pytest.skip("the kernel does not let this process forge one")
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(monitor._events)
        assert monitor._take_events() is False
        assert (monitor.errors, monitor.snapshot) == (0, before)
