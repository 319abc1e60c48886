"""Names looked up on real links: loopback, and namespaces with several (RFC 6762; checklist MDNS-03, HOST-14)."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from edgeice.addresses import Base, TransportAddress
from edgeice.net.mdns import GROUPS, LINKS_LIMIT, PORT, MulticastResolver, _open_link
from edgeice.net.resolve import Resolver
from edgeice.sansio import DropCounter
from tests.support.dns_wire import address_record, encode_name, response
from tests.support.namespace import fresh_network_namespace, ip

NAME = "0b5a4a2e-6b0e-4c5c-9d4c-5e0a1f6d2c77.local"
LOOPBACK = Base(TransportAddress("127.0.0.1", 4000))


@pytest.fixture
def namespace() -> Iterator[None]:
    with fresh_network_namespace():
        ip("link", "set", "lo", "up")
        yield


def make_link(number: int) -> None:
    """A link with an address of each family."""
    name = f"d{number}"
    ip("link", "add", name, "type", "veth", "peer", "name", f"p{number}")
    ip("addr", "add", f"198.51.{number}.1/24", "dev", name)
    ip("addr", "add", f"2001:db8:{number}::1/64", "dev", name, "nodad")
    for end in (name, f"p{number}"):
        ip("link", "set", end, "up")


def open_sockets() -> int:
    return sum(1 for each in Path("/proc/self/fd").iterdir() if each.is_symlink() and "socket:" in str(each.readlink()))


@attrs.define
class Responder:
    """Answers questions for `name` on one interface, as browsers do (to the group) or to the asker alone."""

    name: str = NAME
    family: int = 4
    interface: str = "lo"
    ip: str = "192.0.2.7"
    to_group: bool = True
    #: Address to answer from, where it is to be another one.
    source: str = ""
    questions: list[bytes] = attrs.field(factory=list)
    announce: Callable[[], object] = lambda: None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        index = socket.if_nametoindex(self.interface)
        group = (GROUPS[self.family], PORT, 0, index)[: 2 if self.family == 4 else 4]
        with socket.socket(socket.AF_INET if self.family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(group)
            if self.family == 4:
                member = struct.pack("4s4si", socket.inet_aton(GROUPS[4]), bytes(4), index)
                sock.setsockopt(socket.IPPROTO_IP, 49, 0)  # IP_MULTICAST_ALL
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
            else:
                member = socket.inet_pton(socket.AF_INET6, GROUPS[6]) + struct.pack("i", index)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            self.announce = lambda: sock.sendto(response(address_record(self.name, self.ip)), group)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run, sock, group)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel()
                    trio.lowlevel.notify_closing(sock)

    async def _run(self, sock: socket.socket, group: tuple[object, ...]) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            data, sender = sock.recvfrom(9000)
            if data[2] & 0x80:
                continue  # an answer
            self.questions.append(data)
            if encode_name(self.name) in data:
                answer = response(address_record(self.name, self.ip))
                with socket.socket(sock.family, socket.SOCK_DGRAM) as other:
                    if self.source:
                        other.bind((self.source, 0))
                    (other if self.source else sock).sendto(answer, group if self.to_group else sender)


@attrs.define
class Answers:
    """What a resolver told."""

    got: list[tuple[str, list[str]]] = attrs.field(factory=list)
    changed: trio.Event = attrs.field(factory=trio.Event)
    then: Callable[[], None] = lambda: None

    def __call__(self, name: str, ips: list[str]) -> None:
        self.got.append((name, ips))
        self.changed.set()
        self.changed = trio.Event()
        self.then()

    async def wait(self, count: int) -> list[tuple[str, list[str]]]:
        with trio.fail_after(20):
            while len(self.got) < count:
                await self.changed.wait()
        return self.got


def resolver(nursery: trio.Nursery, *bases: Base) -> tuple[MulticastResolver, Answers, DropCounter]:
    answers, counters = Answers(), DropCounter()
    return MulticastResolver(nursery, answers, counters, lambda: bases), answers, counters


async def closed(before: int) -> None:
    """All sockets are closed, a few turns later."""
    for _ in range(10):
        if open_sockets() == before:
            return
        await trio.testing.wait_all_tasks_blocked()
    assert open_sockets() == before


TO = pytest.mark.parametrize("to_group", [True, False], ids=["to the group", "to the asker"])


@TO
async def test_mdns_03_an_answer_is_heard_wherever_it_is_sent(
    nursery: trio.Nursery, autojump_clock: MockClock, *, to_group: bool
) -> None:
    began = trio.current_time()
    assert await hear(nursery, LOOPBACK, Responder(to_group=to_group)) == {}
    assert trio.current_time() == began  # it is told, and the sockets closed, at once


@TO
@pytest.mark.root
async def test_mdns_03_an_answer_by_ipv6_is_heard(namespace: None, nursery: trio.Nursery, *, to_group: bool) -> None:
    make_link(0)  # loopback has no multicast of IPv6
    base = Base(TransportAddress("2001:db8:0::1", 4000), "d0")
    counted = await hear(nursery, base, Responder(family=6, interface="d0", to_group=to_group))
    assert set(counted) <= {"mdns_send"}  # a link that has just come up may need a second question


async def hear(nursery: trio.Nursery, base: Base, responder: Responder) -> dict[str, int]:
    """Have the name looked up twice; gives what was counted."""
    found, answers, counters = resolver(nursery, base)
    async with responder.running():
        before = open_sockets()
        for count in (1, 2):
            found.resolve(NAME)
            assert await answers.wait(count) == [(NAME, ["192.0.2.7"])] * count
            await closed(before)
    return counters.snapshot()


@pytest.mark.root
async def test_links_are_held_to_their_interface(namespace: None) -> None:
    make_link(0)
    link = _open_link("d0", 4, "198.51.0.1", ())
    try:
        assert link.asker.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16) == b"d0\0"
        assert link.asker.getsockname()[0] == "198.51.0.1"
    finally:
        link.close()


@pytest.mark.root
async def test_mdns_03_every_link_of_the_bases_is_asked_and_no_other(namespace: None, nursery: trio.Nursery) -> None:
    for number in range(3):
        make_link(number)
    bases = [Base(TransportAddress(f"198.51.{number}.1", 4000), f"d{number}") for number in (0, 1)]
    # A second base on a link is no second link.
    found, answers, counters = resolver(nursery, *bases, Base(TransportAddress("198.51.1.1", 4001), "d1"))
    silent, unasked = Responder(name="other.local", interface="d0"), Responder(interface="d2", ip="192.0.2.8")
    speaking = Responder(interface="d1")
    async with silent.running(), unasked.running(), speaking.running():
        found.resolve("another.local")
        await trio.testing.wait_all_tasks_blocked()
        unasked.announce()
        found.resolve(NAME)
        assert await answers.wait(1) == [(NAME, ["192.0.2.7"])]
        await trio.testing.wait_all_tasks_blocked()
    assert (len(silent.questions), len(speaking.questions), len(unasked.questions)) == (4, 4, 0)
    assert counters.snapshot() == {}


@pytest.mark.root
async def test_host_14_a_unicast_answer_from_another_network_is_not_taken(
    namespace: None, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    make_link(0)
    found, answers, counters = resolver(nursery, LOOPBACK)
    async with Responder(to_group=False, source="198.51.0.1").running():
        found.resolve(NAME)
        assert await answers.wait(1) == [(NAME, [])]
    assert counters["mdns_far"] == 6


async def test_mdns_03_a_name_that_nobody_knows_is_asked_for_three_times(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    found, answers, counters = resolver(nursery, LOOPBACK)
    responder = Responder(name="other.local")
    async with responder.running():
        before = open_sockets()
        began = trio.current_time()
        found.resolve(NAME)
        found.resolve(NAME)
        assert await answers.wait(1) == [(NAME, [])]
        assert trio.current_time() - began == 5.0
        await closed(before)
    assert len(responder.questions) == 6
    assert counters.snapshot() == {}


async def test_a_name_asked_for_in_the_answer_to_another_is_looked_up(nursery: trio.Nursery) -> None:
    found, answers, _ = resolver(nursery, LOOPBACK)
    answers.then = lambda: found.resolve(NAME) if len(answers.got) < 3 else None
    async with Responder().running():
        before = open_sockets()
        found.resolve(NAME)
        assert await answers.wait(3) == [(NAME, ["192.0.2.7"])] * 3
        await closed(before)


async def test_without_bases_a_name_has_no_address_and_no_socket_is_opened(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    found, answers, counters = resolver(nursery)
    before, began = open_sockets(), trio.current_time()
    found.resolve(NAME)
    assert await answers.wait(1) == [(NAME, [])]
    assert trio.current_time() == began
    await closed(before)
    assert counters.snapshot() == {}


async def test_links_that_cannot_be_asked_are_counted_and_the_others_asked(nursery: trio.Nursery) -> None:
    gone = Base(TransportAddress("192.0.2.9", 1), "gone0")
    found, answers, counters = resolver(nursery, gone)
    before = open_sockets()
    found.resolve(NAME)
    assert await answers.wait(1) == [(NAME, [])]
    await closed(before)
    found, answers, counters = resolver(nursery, gone, LOOPBACK)
    async with Responder().running():
        before = open_sockets()
        found.resolve(NAME)
        assert await answers.wait(1) == [(NAME, ["192.0.2.7"])]
        await closed(before)
    assert counters.snapshot() == {"mdns_link": 1}


@pytest.mark.root
@pytest.mark.slow
async def test_host_14_links_are_bounded(namespace: None, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    bases = []
    for number in range(LINKS_LIMIT + 1):
        make_link(number)
        bases.append(Base(TransportAddress(f"198.51.{number}.1", 4000), f"d{number}"))
    found, answers, counters = resolver(nursery, *bases)
    before = open_sockets()
    found.resolve(NAME)
    await trio.testing.wait_all_tasks_blocked()
    assert open_sockets() - before == 2 * LINKS_LIMIT
    await answers.wait(1)
    await closed(before)
    assert counters.snapshot() == {"mdns_link": 1}


async def test_cancellation_closes_all_sockets() -> None:
    before = open_sockets()
    async with trio.open_nursery() as nursery:
        found, answers, _ = resolver(nursery, LOOPBACK)
        found.resolve(NAME)
        await trio.testing.wait_all_tasks_blocked()
        assert open_sockets() > before
        nursery.cancel_scope.cancel()
    assert open_sockets() == before
    assert answers.got == []


async def test_the_resolver_sends_names_of_links_to_the_links(nursery: trio.Nursery) -> None:
    answers, counters = Answers(), DropCounter()
    both = Resolver(nursery, answers, counters, lambda _: ["192.0.2.1"], bases=lambda: [LOOPBACK])
    async with Responder().running():
        both.resolve(NAME, multicast=True)
        assert await answers.wait(1) == [(NAME, ["192.0.2.7"])]
        both.resolve(NAME)
        assert await answers.wait(2) == [(NAME, ["192.0.2.7"]), (NAME, ["192.0.2.1"])]


@pytest.mark.slow
def test_who_looks_nothing_up_on_links_loads_nothing_for_it() -> None:
    code = (
        "import sys, edgeice.net, edgeice.peer; print(*(n for n in sys.modules if 'mdns' in n or n == 'edgeice.dns'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
