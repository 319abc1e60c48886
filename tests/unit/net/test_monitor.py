"""The monitor on the kernel's own rtnetlink: this machine's interfaces, and a namespace where they change."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from edgeice.errors import DecodeError
from edgeice.net import InterfaceMonitor, InterfacePolicy, Snapshot, delta, usable_addresses
from edgeice.net import monitor as monitor_module
from edgeice.net.netlink import AddressMessage, Message, decode
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
        assert monitor._take_events() == set()
        assert (monitor.errors, monitor.snapshot) == (0, before)


class Interfaces:
    """Interfaces of a fresh namespace, changed by ioctls, which do not take as long as starting ip(8) does."""

    def __init__(self, *names: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        commands = []
        for number, name in enumerate(names):
            commands += [
                f"link add {name} type veth peer name far-{name}",
                f"link set far-{name} addrgenmode none up",
                f"link set {name} addrgenmode none up",
                f"addr add 192.0.{number}.7/24 dev {name}",
                f"route add default via 192.0.{number}.1 metric {100 + number}",
            ]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def set(self, name: str, *, up: bool) -> None:
        """Set it up or down (SIOCGIFFLAGS, SIOCSIFFLAGS)."""
        (flags,) = struct.unpack("16xH14x", fcntl.ioctl(self._socket, 0x8913, struct.pack("16s16x", name.encode())))
        flags = flags | 1 if up else flags & ~1
        fcntl.ioctl(self._socket, 0x8914, struct.pack("16sH14x", name.encode(), flags))

    def address(self, name: str, address: str) -> None:
        """Replace its address, 0.0.0.0 for none (SIOCSIFADDR)."""
        family, raw = socket.AF_INET, socket.inet_aton(address)
        fcntl.ioctl(self._socket, 0x8916, struct.pack("16sHH4s8x", name.encode(), family, 0, raw))


LOST: Final = {
    "carrier": "carrier lost on eth0",
    "down": "eth0 set down",
    "address": "address 192.0.0.7 removed from eth0",
}


@pytest.mark.root
@pytest.mark.parametrize("fault", LOST)
async def test_a_loss_is_told_at_once_and_a_gain_after_its_burst(
    namespace: None, autojump_clock: MockClock, fault: str
) -> None:
    """On a clock that stands still as long as anything happens: whoever waits is seen by it."""

    def change(*, lose: bool) -> None:
        if fault == "carrier":
            interfaces.set("far-eth0", up=not lose)
        elif fault == "down":
            interfaces.set("eth0", up=not lose)
        else:
            interfaces.address("eth0", "0.0.0.0" if lose else "192.0.0.7")

    autojump_clock.autojump_threshold = 0.1  # the kernel's own work takes no virtual time
    with Interfaces("eth0", "wwan0") as interfaces, InterfaceMonitor() as monitor:
        before = monitor.read()
        start = trio.current_time()
        change(lose=True)
        after = await monitor.changed()
        assert trio.current_time() == start
        reasons = delta(before, after)
        assert LOST[fault] in reasons
        # A link without carrier keeps its route in the table, where the kernel would use it.
        assert "default route moved from eth0 to wwan0" in reasons
        before = monitor.read()
        change(lose=False)
        after = await monitor.changed()
        assert trio.current_time() == pytest.approx(start + 0.02)
        assert {each.ip for each in usable_addresses(after, InterfacePolicy())} == {"192.0.0.7", "192.0.1.7"}


@pytest.mark.root
async def test_a_loss_does_not_wait_for_a_gain_under_way(namespace: None, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.1
    with Interfaces("eth0", "wwan0") as interfaces, InterfaceMonitor() as monitor:
        interfaces.address("wwan0", "0.0.0.0")
        before = monitor.read()
        start = trio.current_time()
        interfaces.address("wwan0", "192.0.1.8")
        async with trio.open_nursery() as nursery:

            async def lose() -> None:
                await trio.sleep(0.01)
                interfaces.address("eth0", "0.0.0.0")

            nursery.start_soon(lose)
            after = await monitor.changed()
        assert trio.current_time() == pytest.approx(start + 0.01)
        assert "address 192.0.0.7 removed from eth0" in delta(before, after)


@pytest.mark.root
@pytest.mark.slow
async def test_what_flaps_is_held_back_with_the_reason_and_let_go_once_it_stays(
    namespace: None, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.001  # what is changed of addresses is told within the call
    why = "held back for 8 s: went away 5 times within 30 s"
    told: list[str] = []
    with Interfaces("eth0", "wwan0") as interfaces, InterfaceMonitor() as monitor:
        snapshot = monitor.read()

        async def watch() -> None:
            nonlocal snapshot
            while True:
                before, snapshot = snapshot, await monitor.changed()
                told.extend(delta(before, snapshot))

        def used() -> list[str]:
            return [each.interface for each in usable_addresses(snapshot, InterfacePolicy(exclude=("far-*",)))]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for _ in range(50):
                interfaces.address("eth0", "0.0.0.0")
                await trio.sleep(0.05)
                interfaces.address("eth0", "192.0.0.7")
                await trio.sleep(0.05)
            assert told.count("address 192.0.0.7 removed from eth0") == 5
            assert f"address 192.0.0.7 on eth0 {why}" in told
            assert used() == ["wwan0"]
            interfaces.address("wwan0", "0.0.0.0")  # a loss counts at once, whatever else is held back
            await trio.sleep(0.06)
            assert told[-1] in {"default route lost from wwan0", "default route moved from wwan0 to eth0"}
            assert used() == []
            await trio.sleep(1)
            assert used() == ["eth0"]  # better than nothing
            interfaces.address("wwan0", "192.0.1.7")
            await trio.sleep(0.1)
            assert used() == ["wwan0"]
            await trio.sleep(8)
            assert used() == ["eth0", "wwan0"]
            assert told[-1] == "address 192.0.0.7 on eth0 no longer held back"
            nursery.cancel_scope.cancel()


@pytest.mark.root
async def test_a_renamed_interface_is_another_at_once(namespace: None, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.1
    with Interfaces("eth0"), InterfaceMonitor() as monitor:
        before = monitor.read()
        start = trio.current_time()
        try:
            ip("link", "set", "eth0", "name", "lan0")
        except subprocess.CalledProcessError:
            pytest.skip("the kernel renames no interface that is up")  # before Linux 6.2
        after = await monitor.changed()
        assert trio.current_time() == start
        assert "eth0 renamed to lan0" in delta(before, after)


async def test_a_dump_that_the_kernel_refuses_is_tried_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    autojump_clock.autojump_threshold = 0.02
    with InterfaceMonitor() as monitor:
        before = monitor.read()
        dump, refusals = monitor_module._dump_all, [OSError(errno.ENOMEM, "no memory"), OSError(errno.EBUSY, "busy")]

        def refusing() -> list[Message]:
            if refusals:
                raise refusals.pop(0)
            monitor._sys = Path("/nowhere")
            return [message for message in dump() if not isinstance(message, AddressMessage)]

        monkeypatch.setattr(monitor_module, "_dump_all", refusing)
        start = trio.current_time()
        monitor._look_at = start  # as if something had been heard
        after = await monitor.changed()
        assert trio.current_time() == start + 2
        assert monitor.errors == 2
        assert delta(before, after)


@pytest.mark.slow
@given(data=st.lists(st.binary(min_size=1, max_size=200), max_size=6))
@settings(max_examples=30, deadline=None)
def test_netlink_garbage_leads_to_fresh_dumps_and_nothing_else(data: list[bytes]) -> None:
    """The garbage comes in a socket, but as if from the kernel, which sends none."""

    async def run() -> None:
        with InterfaceMonitor() as monitor:
            before = monitor.read()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            with theirs, ours, monitor._events:
                ours.setblocking(False)  # the library's
                monitor._events = FromKernel(ours)
                for each in data:
                    theirs.send(each)
                with trio.move_on_after(0.1):
                    await monitor.changed()
                    pytest.fail("nothing had changed")
                broken = 0
                for each in data:
                    try:
                        decode(each)
                    except DecodeError:
                        broken += 1
                assert monitor.errors == broken
                assert monitor.snapshot == before

    trio.run(run, clock=MockClock(autojump_threshold=0.01))


class FromKernel(socket.socket):
    """A socket whose datagrams seem to come from the kernel."""

    def __init__(self, other: socket.socket) -> None:
        super().__init__(fileno=other.detach())

    def recvfrom(self, size: int) -> Any:  # type: ignore[override]
        return self.recv(size), (0, 0)
