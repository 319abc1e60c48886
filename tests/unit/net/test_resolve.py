"""Name look-ups: the system's, and the bounds around any."""

from __future__ import annotations

import socket
import threading

import pytest
import trio
from trio.testing import MockClock

from edgeice.net.resolve import CONCURRENCY, PENDING_LIMIT, TIMEOUT, Resolver, system_lookup
from edgeice.sansio import DropCounter


class Answers:
    def __init__(self) -> None:
        self.got: list[tuple[str, list[str]]] = []
        self.changed = trio.Event()

    def __call__(self, name: str, ips: list[str]) -> None:
        self.got.append((name, ips))
        self.changed.set()

    async def wait(self, count: int) -> list[tuple[str, list[str]]]:
        with trio.fail_after(5):
            while len(self.got) < count:
                self.changed = trio.Event()
                await self.changed.wait()
        return self.got


def test_system_lookup_knows_localhost() -> None:
    assert set(system_lookup("localhost")) & {"127.0.0.1", "::1"}


@pytest.mark.parametrize("name", ["", "a" * 64 + ".example", "nul\0.example", "\ud800", "..", "nonesuch.invalid"])
def test_names_that_cannot_be_looked_up_have_no_address(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def offline(host: str, *rest: object, **named: object) -> object:
        if host == "nonesuch.invalid":  # the test asks no name server
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    assert set(system_lookup(name)) <= {"127.0.0.1", "::1"}
    if name:
        assert system_lookup(name) == []


def test_scoped_and_repeated_answers_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["2001:db8::1", "fe80::1%eth0", "2001:db8::1", "192.0.2.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (ip, 0)) for ip in answers])
    assert system_lookup("example.org") == ["2001:db8::1", "192.0.2.1"]


@pytest.mark.parametrize(
    ("literal", "ip"), [("192.0.2.1", "192.0.2.1"), ("2001:DB8:0::1", "2001:db8::1"), ("::1", "::1")]
)
async def test_address_is_its_own_answer(nursery: trio.Nursery, literal: str, ip: str) -> None:
    answers = Answers()
    Resolver(nursery, answers, DropCounter(), lookup=pytest.fail).resolve(literal)
    assert await answers.wait(1) == [(literal, [ip])]


async def test_answers_come_off_the_event_loop(nursery: trio.Nursery) -> None:
    answers, threads = Answers(), set[str]()

    def lookup(name: str) -> list[str]:
        threads.add(threading.current_thread().name)
        return [f"192.0.2.{len(name)}"]

    resolver = Resolver(nursery, answers, DropCounter(), lookup)
    for name in ("a", "bb", "ccc"):
        resolver.resolve(name)
    assert sorted(await answers.wait(3)) == [("a", ["192.0.2.1"]), ("bb", ["192.0.2.2"]), ("ccc", ["192.0.2.3"])]
    assert threading.main_thread().name not in threads


class Gate:
    """A look-up that waits until it is let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.names: list[str] = []
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, name: str) -> list[str]:
        with self._lock:
            self.names.append(name)
            self.running += 1
            self.most = max(self.most, self.running)
        self.open.wait()
        with self._lock:
            self.running -= 1
        return ["192.0.2.1"]


async def test_concurrency_and_pending_names_are_bounded(nursery: trio.Nursery) -> None:
    answers, gate, counters = Answers(), Gate(), DropCounter()
    resolver = Resolver(nursery, answers, counters, gate)
    try:
        for number in range(PENDING_LIMIT + 2):
            resolver.resolve(f"host{number}")
            resolver.resolve("host0")  # is under way
        assert sorted(await answers.wait(2)) == [(f"host{PENDING_LIMIT + n}", []) for n in range(2)]
        assert counters.snapshot() == {"resolve_queue": 2}
    finally:
        gate.open.set()
    got = await answers.wait(PENDING_LIMIT + 2)
    assert sorted(name for name, _ in got) == sorted(f"host{number}" for number in range(PENDING_LIMIT + 2))
    assert gate.most <= CONCURRENCY
    assert len(gate.names) == PENDING_LIMIT


async def test_look_up_that_takes_too_long_fails_and_its_thread_keeps_its_place(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    answers, gate, counters = Answers(), Gate(), DropCounter()
    resolver = Resolver(nursery, answers, counters, gate)
    started = trio.current_time()
    try:
        for number in range(CONCURRENCY + 1):
            resolver.resolve(f"host{number}")
        await trio.sleep(TIMEOUT + 1)
        assert sorted(answers.got) == [(f"host{number}", []) for number in range(CONCURRENCY + 1)]
        assert trio.current_time() - started == TIMEOUT + 1
        assert counters.snapshot() == {"resolve_timeout": CONCURRENCY + 1}
        assert resolver._limiter.borrowed_tokens == CONCURRENCY
    finally:
        gate.open.set()
