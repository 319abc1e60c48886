"""How the client finds a way to its broker: head starts, failures, look-ups, and changes of the network meanwhile."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from edgeice.signaling.broker import BrokerConfig, FailureKind, TlsConfig
from edgeice.signaling.failures import ConnectError
from edgeice.signaling.mqtt import dial as dial_module
from edgeice.signaling.mqtt.client import _tls_context
from edgeice.signaling.mqtt.dial import Dial, Dialed, Names
from edgeice.signaling.ways import Network, Usable

#: Loopback has sixteen million addresses; each stands for one of the broker's.
DEAD, DEAD_TOO, GOOD = "127.0.0.2", "127.0.0.3", "127.0.0.4"
HEAD_START = 0.05


@attrs.frozen
class Addresses:
    """A port that accepts connections at `GOOD`, and gives no answer at the dead ones."""

    port: int
    listener: socket.socket

    def names(self, *addresses: str) -> Names:
        names = Names(self.config)
        names.targets = {each: (socket.AF_INET, (each, self.port)) for each in addresses}
        return names

    @property
    def config(self) -> BrokerConfig:
        return BrokerConfig(host="broker.example", port=self.port, client_id="a")

    def accepted(self) -> int:
        """How many connections came by now."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self.listener.accept()[0].close()
                count += 1
        return count


@pytest.fixture
def addresses() -> Iterator[Addresses]:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((GOOD, 0)))
        listener.setblocking(False)
        port = listener.getsockname()[1]
        for address in (DEAD, DEAD_TOO):
            stack.enter_context(socket.create_server((address, port), backlog=0))
            # What finds no room in the queue gets no answer.
            for _ in range(2):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((address, port))
        yield Addresses(port, listener)


@pytest.fixture(autouse=True)
def short_head_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial_module, "_HEAD_START", HEAD_START)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def look_up_as(monkeypatch: pytest.MonkeyPatch, *found: str, port: int = 0) -> list[str]:
    """Let a look-up find these, or fail where there are none; gives what was asked."""
    asked: list[str] = []

    def look_up(host: str, *_arguments: object, **_more: object) -> list[Any]:
        asked.append(host)
        if not found:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    return asked


def dial(addresses: Addresses, names: Names, network: Network | None = None) -> Dial:
    return Dial(addresses.config, None, network or Network(), names)


async def connect(made: Dial) -> Dialed:
    with trio.fail_after(5):
        dialed = await made.run()
    dialed.sock.close()
    return dialed


@contextlib.asynccontextmanager
async def dialing(made: Dial) -> AsyncIterator[list[Dialed]]:
    """Let it run; gives where what it finds will stand."""
    found: list[Dialed] = []

    async def run() -> None:
        found.append(await connect(made))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        yield found
        nursery.cancel_scope.cancel()


async def test_a_silent_address_gets_its_head_start_and_no_more(addresses: Addresses) -> None:
    before, begun = open_files(), trio.current_time()
    dialed = await connect(dial(addresses, addresses.names(DEAD, DEAD_TOO, GOOD)))
    assert dialed.footing.way.address == GOOD
    assert 2 * HEAD_START <= trio.current_time() - begun < 1
    # Those that are silent were given up.
    assert (open_files(), addresses.accepted()) == (before, 1)


async def test_an_address_that_refuses_costs_no_head_start(
    addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial_module, "_HEAD_START", 60.0)
    assert (await connect(dial(addresses, addresses.names("127.0.0.9", GOOD)))).footing.way.address == GOOD


async def test_the_first_one_that_answers_is_enough(addresses: Addresses, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = look_up_as(monkeypatch, GOOD, port=addresses.port)
    names = addresses.names(GOOD, DEAD)
    assert (await connect(dial(addresses, names))).footing.way.address == GOOD
    assert (addresses.accepted(), asked) == (1, [])


async def test_the_name_is_looked_up_where_nothing_is_known_and_the_answer_is_kept(
    addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = look_up_as(monkeypatch, GOOD, port=addresses.port)
    names = Names(addresses.config)
    for _ in range(2):
        await connect(dial(addresses, names))
    assert asked == ["broker.example"]
    look_up_as(monkeypatch)  # the name servers are away
    await connect(dial(addresses, names))


async def test_the_name_is_looked_up_anew_where_what_is_known_is_silent(
    addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = look_up_as(monkeypatch, GOOD, port=addresses.port)
    names = addresses.names(DEAD)
    assert (await connect(dial(addresses, names))).footing.way.address == GOOD
    assert (asked, list(names.targets)) == (["broker.example"], [GOOD])


async def test_what_is_known_outlives_a_failed_look_up(addresses: Addresses, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up_as(monkeypatch)
    names = addresses.names("127.0.0.9")
    with pytest.raises(ConnectError) as caught:
        await connect(dial(addresses, names))
    # What the address said counts, not what the name servers did not say.
    assert caught.value.kind is FailureKind.CONNECTION_REFUSED
    assert list(names.targets) == ["127.0.0.9"]


async def test_without_any_way_the_failure_says_so(addresses: Addresses) -> None:
    names = Names(attrs.evolve(addresses.config, host="203.0.113.7"))
    made = dial(addresses, names, NoWays())
    with pytest.raises(ConnectError) as caught:
        await connect(made)
    assert caught.value.kind is FailureKind.UNREACHABLE


class NoWays(Network):
    """Knows no way."""

    def ways(self, _address: str, _source: str | None) -> list[Any]:
        return []


async def test_a_new_way_is_tried_at_once_beside_the_others(
    addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial_module, "_HEAD_START", 60.0)
    names = addresses.names(DEAD)
    made = dial(addresses, names)
    async with dialing(made) as found:
        (silent,) = made._running.values()
        names.targets |= addresses.names(GOOD).targets
        made.reconsider()
        with trio.fail_after(1):
            while not found:
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert not silent.scope.cancel_called
    assert found[0].footing.way.address == GOOD


async def test_an_attempt_that_lost_its_address_begins_anew(addresses: Addresses) -> None:
    network = Network()
    network.update([Usable("127.0.0.1", "lo")])
    made = dial(addresses, addresses.names(DEAD), network)
    async with dialing(made):
        (first,) = made._running.values()
        made.reconsider()
        await trio.testing.wait_all_tasks_blocked()
        assert list(made._running.values()) == [first]
        network.update([])
        made.reconsider()
        await trio.testing.wait_all_tasks_blocked()
        (second,) = made._running.values()
        assert second is not first


async def test_what_a_broker_says_in_tls_it_would_say_at_its_other_addresses() -> None:
    # No attempt is made at the second address, which does not even listen.
    (listener,) = await trio.open_tcp_listeners(0, host=GOOD)
    port = listener.socket.getsockname()[1]
    config = BrokerConfig(host="broker.example", port=port, client_id="a", tls=TlsConfig())
    names = Names(config)
    names.targets = {each: (socket.AF_INET, (each, port)) for each in (GOOD, "127.0.0.9")}
    names.is_fixed = True
    made = Dial(config, _tls_context(TlsConfig()), Network(), names)
    async with trio.open_nursery() as nursery:

        async def speak_no_tls() -> None:
            async with await listener.accept() as stream:
                await stream.send_all(b"220 mail.example ESMTP\r\n" * 10)
                await trio.sleep_forever()

        nursery.start_soon(speak_no_tls)
        with pytest.raises(ConnectError) as caught:
            await connect(made)
        nursery.cancel_scope.cancel()
    assert caught.value.kind is FailureKind.TLS
    listener.socket.close()


@pytest.mark.parametrize(("keepalive", "seconds"), [(5, 15), (40, 20), (60, 30), (600, 30)])
async def test_output_that_is_not_acknowledged_is_given_up_when_the_broker_gives_us_up(
    addresses: Addresses, keepalive: int, seconds: int
) -> None:
    config = attrs.evolve(addresses.config, keepalive=keepalive)
    dialed = await Dial(config, None, Network(), addresses.names(GOOD)).run()
    with dialed.sock as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == seconds * 1000
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("127.0.0.1", {"127.0.0.1": (socket.AF_INET, ("127.0.0.1", 9))}),
        ("::1", {"::1": (socket.AF_INET6, ("::1", 9, 0, 0))}),
        ("2001:DB8::0:1", {"2001:db8::1": (socket.AF_INET6, ("2001:db8::1", 9, 0, 0))}),
        ("1.2.3", {}),
        ("a.example", {}),
        ("a\u2100.example", {}),
    ],
)
def test_an_address_needs_no_look_up(host: str, target: dict[str, Any]) -> None:
    names = Names(BrokerConfig(host=host, port=9, client_id="a"))
    assert (names.targets, names.is_fixed) == (target, bool(target))
