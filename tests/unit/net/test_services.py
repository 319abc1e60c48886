"""Servers of a service by DNS (RFC 2782, RFC 8489 §8.1; checklist STUN-54)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from edgeice.dns import Service, decode_services, in_order
from edgeice.errors import DecodeError
from edgeice.net import Driver
from edgeice.net.resolve import PENDING_LIMIT, SERVICE_TIMEOUT, Resolver
from edgeice.net.services import TARGETS_LIMIT, locate
from edgeice.sansio import DropCounter, Resolve
from tests.support.dns_wire import encode_name, record, response
from tests.support.toy_machines import ToyRouter

T = TypeVar("T")
ROOT = Path(__file__).parents[3]
NAME = "_stun._udp.example.org"
HOSTS = {"a.example": ["192.0.2.1", "2001:db8::1"], "b.example": ["192.0.2.2"], "c.example": ["192.0.2.3"]}


def offered(*servers: tuple[int, int, int, str]) -> bytes:
    """An answer: priority, weight, port and target of each server."""
    return response(
        *(
            record(
                encode_name(NAME),
                33,
                priority.to_bytes(2) + weight.to_bytes(2) + port.to_bytes(2) + encode_name(target),
                klass=1,
            )
            for priority, weight, port, target in servers
        )
    )


REFUSAL = response(record(encode_name(NAME), 33, bytes(6) + b"\0", klass=1))


async def at_once(lookup: Callable[[str], T], name: str) -> T:
    await trio.lowlevel.checkpoint()
    return lookup(name)


async def found(data: bytes, draw: Callable[[int], int] = lambda _: 0) -> list[tuple[str, int | None]] | None:
    def lookup(name: str) -> list[str]:
        assert name  # the root is nobody's name
        return HOSTS.get(name, [])

    return await locate(NAME, lookup, at_once, services=lambda _: data, draw=draw)


async def test_stun_54_servers_come_by_priority_with_their_ports() -> None:
    data = offered((20, 0, 3479, "c.example"), (10, 0, 3478, "a.example"), (20, 0, 3480, "b.example"))
    assert await found(data) == [
        ("192.0.2.1", 3478),
        ("2001:db8::1", 3478),
        ("192.0.2.3", 3479),
        ("192.0.2.2", 3480),
    ]


@pytest.mark.parametrize(
    ("draws", "order"),
    [([0, 0, 0], "abc"), ([1, 1, 0], "bca"), ([3, 1, 0], "bca"), ([4, 0, 3], "cab"), ([10, 3, 0], "cba")],
)
def test_stun_54_servers_of_one_priority_are_drawn_by_weight(draws: list[int], order: str) -> None:
    servers = [Service(1, weight, 3478, target) for weight, target in ((7, "c"), (0, "a"), (3, "b"))]
    limits: list[int] = []

    def draw(most: int) -> int:
        limits.append(most)
        return draws[len(limits) - 1]

    assert "".join(each.target for each in in_order(servers, draw)) == order
    assert limits[0] == 10


async def test_stun_54_without_records_the_name_itself_is_to_be_tried() -> None:
    assert await found(response()) is None
    assert await found(b"") is None
    assert await found(b"\xff" * 40) is None
    assert await found(response(record(encode_name(NAME), 16, b"\4text", klass=1))) is None


async def test_stun_54_servers_without_an_address_are_as_none() -> None:
    assert await found(offered((1, 0, 1, "nowhere.example"))) is None
    assert await found(offered((1, 0, 1, "nowhere.example"), (2, 0, 2, "b.example"))) == [("192.0.2.2", 2)]


async def test_stun_54_a_name_that_refuses_the_service_has_no_servers() -> None:
    assert await found(REFUSAL) == []


async def test_stun_54_few_servers_are_looked_at() -> None:
    data = offered(*((number, 0, 1000 + number, "b.example") for number in range(100)))
    assert await found(data) == [("192.0.2.2", 1000 + number) for number in range(TARGETS_LIMIT)]


def test_targets_are_host_names() -> None:
    with pytest.raises(DecodeError):
        decode_services(response(record(encode_name(NAME), 33, bytes(6) + b"\2\xff\xff\0", klass=1)))
    assert decode_services(response(record(encode_name(NAME), 33, bytes(6) + b"\1a\0", klass=3))) == []


class Answers:
    def __init__(self) -> None:
        self.got: list[tuple[object, ...]] = []
        self.changed = trio.Event()

    def __call__(self, *what: object) -> None:
        self.got.append(what)
        self.changed.set()
        self.changed = trio.Event()

    async def wait(self, count: int) -> list[tuple[object, ...]]:
        with trio.fail_after(20):
            while len(self.got) < count:
                await self.changed.wait()
        return self.got


async def test_stun_54_a_resolver_answers_with_servers_or_with_addresses(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {NAME: offered((1, 0, 3479, "b.example")), "_stun._udp.refusing.example": REFUSAL}
    monkeypatch.setattr("edgeice.net.services.system_services", lambda name: known.get(name, b""))
    answers = Answers()
    hosts = HOSTS | {"refusing.example": ["192.0.2.7"]}
    resolver = Resolver(nursery, answers, DropCounter(), lambda name: hosts.get(name, []), on_located=answers)
    resolver.resolve("example.org", service="_stun._udp")
    resolver.resolve("example.org", service="_stun._udp")
    assert await answers.wait(1) == [("example.org", "_stun._udp", [("192.0.2.2", 3479)])]
    resolver.resolve("refusing.example", service="_stun._udp")
    assert (await answers.wait(2))[1:] == [("refusing.example", "_stun._udp", [])]
    resolver.resolve("a.example", service="_stun._udp")
    assert (await answers.wait(3))[2:] == [("a.example", "_stun._udp", [("192.0.2.1", None), ("2001:db8::1", None)])]
    for count in (4, 5):
        resolver.resolve("a.example")
        assert (await answers.wait(count))[3:] == [("a.example", ["192.0.2.1", "2001:db8::1"])] * (count - 3)


async def test_stun_54_name_servers_that_do_not_answer_leave_the_name_itself(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, counters = Answers(), DropCounter()
    resolver = Resolver(nursery, answers, counters, lambda _: ["192.0.2.1"], on_located=answers)

    async def stuck(lookup: Callable[[str], T], name: str) -> T:
        if name == NAME:
            await trio.sleep_forever()
        return lookup(name)

    monkeypatch.setattr(resolver, "_in_thread", stuck)
    began = trio.current_time()
    resolver.resolve("example.org", service="_stun._udp")
    assert await answers.wait(1) == [("example.org", "_stun._udp", [("192.0.2.1", None)])]
    assert trio.current_time() - began == SERVICE_TIMEOUT
    assert counters.snapshot() == {"resolve_timeout": 1}


@pytest.mark.parametrize(
    ("servers", "seconds", "told"),
    [(b"", 2.0, ("192.0.2.1", None)), (offered((1, 0, 3479, "b.example")), 1.0, ("192.0.2.1", 3479))],
    ids=["none", "some"],
)
async def test_stun_54_servers_and_addresses_are_looked_up_at_once(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    servers: bytes,
    seconds: float,
    told: tuple[str, int | None],
) -> None:
    answers = Answers()
    resolver = Resolver(nursery, answers, DropCounter(), lambda _: ["192.0.2.1"], on_located=answers)
    monkeypatch.setattr("edgeice.net.services.system_services", lambda _: servers)

    async def slow(lookup: Callable[[str], T], name: str) -> T:
        await trio.sleep({NAME: 1.0, "example.org": 2.0}.get(name, 0.0))
        return lookup(name)

    monkeypatch.setattr(resolver, "_in_thread", slow)
    began = trio.current_time()
    resolver.resolve("example.org", service="_stun._udp")
    assert await answers.wait(1) == [("example.org", "_stun._udp", [told])]
    assert trio.current_time() - began == seconds


async def test_stun_54_a_service_beyond_the_names_under_way_is_answered_as_unknown(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, counters = Answers(), DropCounter()
    resolver = Resolver(nursery, answers, counters, on_located=answers)

    async def stuck(_lookup: Callable[[str], T], _name: str) -> T:
        await trio.sleep_forever()
        raise AssertionError("it never wakes")

    monkeypatch.setattr(resolver, "_in_thread", stuck)
    for number in range(PENDING_LIMIT + 1):
        resolver.resolve(f"host{number}", service="_stun._udp")
    assert await answers.wait(1) == [(f"host{PENDING_LIMIT}", "_stun._udp", [])]
    assert counters.snapshot() == {"resolve_queue": 1}
    nursery.cancel_scope.cancel()


async def test_stun_54_the_router_is_told_of_servers(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeice.net.services.system_services", lambda _: offered((1, 0, 3479, "127.0.0.1")))
    router = ToyRouter()
    driver = Driver(router, on_router_event=lambda _event: None)
    await nursery.start(driver.run)
    router.actions.append(Resolve("example.org", service="_stun._udp"))
    driver.touch(router)
    with trio.fail_after(20):
        while not router.inputs:
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert router.inputs == [("located", "example.org", "_stun._udp", [("127.0.0.1", 3479)])]
    nursery.cancel_scope.cancel()


# A name server of its own, which the C library asks, in namespaces of its own.
_ASKING = """
import socket, subprocess, sys, threading
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with open(sys.argv[1], "w") as file:
    file.write("nameserver 127.0.0.1\\noptions timeout:1 attempts:1\\n")
subprocess.run(["mount", "--bind", sys.argv[1], "/etc/resolv.conf"], check=True)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
def serve():
    while True:
        query, source = server.recvfrom(4096)
        end = query.index(b"\\0", 12) + 5
        known = b"\\5_stun" in query and query[end - 4 : end] == b"\\0\\x21\\0\\1"
        record = b"\\xc0\\x0c\\0\\x21\\0\\1\\0\\0\\0\\x3c\\0\\x0b" + b"\\0\\1\\0\\2\\x0d\\x97\\2ab\\xc0\\x17"
        answer = record if known else b""
        flags = b"\\x81\\x80" if known else b"\\x81\\x83"
        head = query[:2] + flags + b"\\0\\1" + len(answer[:1]).to_bytes(2) + bytes(4)
        server.sendto(head + query[12:end] + answer, source)
threading.Thread(target=serve, daemon=True).start()
from edgeice.dns import decode_services
from edgeice.net.services import system_services
print(decode_services(system_services("_stun._udp.example.org")))
print(system_services("_turn._udp.example.org"), system_services("b\\xfccher.example"), system_services(""))
"""


@pytest.mark.root
@pytest.mark.slow
def test_stun_54_the_systems_resolver_is_asked(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs root, unshare(1) and ip(8) for a name server of its own")
    command = ["unshare", "--net", "--mount", sys.executable, "-c", _ASKING, str(tmp_path / "resolv.conf")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.splitlines() == [
        str([Service(1, 2, 3479, "ab.example.org")]),
        "b'' b'' b''",
    ], done.stderr
