"""The laboratory does to frames what it was asked, and leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Host, Impairment, Lab, missing
from tests.lab.links import Carried
from tests.lab.namespaces import collect_garbage, inside, ip, namespaces_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


class Pair:
    """A UDP socket at each end of a link."""

    def __init__(self, lab: Lab) -> None:
        first, second = lab.host("first"), lab.host("second")
        self.link = lab.link(first, second)
        self.sockets = [
            self._open(host, address) for host, address in zip((first, second), self.link.addresses, strict=True)
        ]

    @staticmethod
    def _open(host: Host, address: str) -> socket.socket:
        with host.inside():
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, 9))
        made.settimeout(5)
        return made

    def send(self, number: int, payload: bytes = b"") -> None:
        self.sockets[0].sendto(number.to_bytes(4, "big") + payload, (self.link.addresses[1], 9))

    def receive(self) -> int:
        return int.from_bytes(self.sockets[1].recv(2000)[:4], "big")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Lab() as lab:
        made = Pair(lab)
        yield made
        for end in made.sockets:
            end.close()


def test_each_direction_is_late_by_what_was_asked(pair: Pair) -> None:
    pair.link.impair(Impairment(delay=0.03))
    first, second = pair.sockets
    there, both = [], []
    for number in range(5):
        begun = time.monotonic()
        pair.send(number)
        pair.receive()
        there.append(time.monotonic() - begun)
        second.sendto(b"back", (pair.link.addresses[0], 9))
        first.recv(10)
        both.append(time.monotonic() - begun)
    # No frame is early; a busy machine makes some later than that, but not all.
    assert 0.03 <= min(there) < 0.045
    assert 0.06 <= min(both) < 0.085


def test_the_frames_that_are_lost_are_those_of_the_seed(pair: Pair) -> None:
    pair.link.impair(Impairment(loss=0.3), seed=7)
    dice = random.Random(7)
    kept = [number for number in range(200) if dice.random() >= 0.3]
    for number in range(200):
        pair.send(number)
    pair.link.impair(Impairment())
    pair.send(999)
    got = list(itertools.takewhile(lambda number: number != 999, iter(pair.receive, None)))
    assert got == kept
    there, back = pair.link.carried()
    assert (there, back) == (Carried(len(kept) + 1, 200 - len(kept), 0), Carried(0, 0, 0))


def test_jitter_keeps_the_order(pair: Pair) -> None:
    pair.link.impair(Impairment(delay=0.02, jitter=0.02), seed=3)
    for number in range(50):
        pair.send(number)
    assert [pair.receive() for _ in range(50)] == list(range(50))


def test_a_rate_spreads_frames_and_drops_what_would_wait_too_long(pair: Pair) -> None:
    # 1028 bytes with the headers of UDP and IP: 8 frames take 8.2 ms each, and the ninth would wait longer than 60 ms.
    pair.link.impair(Impairment(rate=1e6, queue=0.06))
    begun = time.monotonic()
    for number in range(20):
        pair.send(number, bytes(996))
    assert [pair.receive() for _ in range(8)] == list(range(8))
    assert time.monotonic() - begun >= 8 * 1028 * 8 / 1e6
    there, _ = pair.link.carried()
    assert (there.carried, there.overflowed) == (8, 12)


def test_hosts_know_what_was_named() -> None:
    with Lab() as lab:
        lab.name("server.example", "203.0.113.10")
        named = subprocess.run(
            lab.host("here").command("getent", "hosts", "server.example"), capture_output=True, check=True
        )
    assert named.stdout.split() == [b"203.0.113.10", b"server.example"]


def test_nothing_is_left_after_the_scope() -> None:
    with Lab() as lab:
        lab.name("server.example", "203.0.113.10")
        host = lab.host("lonely")
        lab.link(host, lab.host("other"))
        sleeper = subprocess.Popen(host.command("sleep", "60"), stdout=subprocess.PIPE)
        assert len(namespaces_of(os.getpid())) == 2
    assert sleeper.wait(5) == -9
    assert sleeper.stdout is not None
    sleeper.stdout.close()
    assert namespaces_of(os.getpid()) == []
    assert not Path("/etc/netns", host.namespace).exists()


_KILLED = """
import os, subprocess
from tests.lab.lab import Lab
with Lab() as lab:
    here, there = lab.host("here"), lab.host("there")
    link = lab.link(here, there)
    sleeper = subprocess.Popen(here.command("sh", "-c", "echo up; exec sleep 60"), stdout=subprocess.PIPE, text=True)
    sleeper.stdout.readline()
    print(link._relay.pid, sleeper.pid, flush=True)
    os.read(0, 1)
"""


def test_what_a_killed_run_left_is_collected() -> None:
    command = [sys.executable, "-c", _KILLED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        relay, sleeper = map(int, run.stdout.readline().split())
        left = namespaces_of(run.pid)
        assert len(left) == 2
        with inside(left[0]):
            assert "eth0" in [name for _, name in socket.if_nameindex()]
        assert ip("netns", "pids", left[0]).split() == [str(sleeper)]
        run.kill()
    # By another laboratory that begins at the same time, perhaps.
    assert set(collect_garbage()) <= set(left)
    assert namespaces_of(run.pid) == []
    for pid in (relay, sleeper):
        deadline = time.monotonic() + 5
        while _runs(pid):
            assert time.monotonic() < deadline
            time.sleep(0.005)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  # it may be gone meanwhile
        return stat.read().rpartition(")")[2].split()[0] not in "ZX"
