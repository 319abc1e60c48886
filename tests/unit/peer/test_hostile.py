"""Datagrams of strangers at an endpoint with a running session: bounded answers, counted drops, nothing harmed."""

from __future__ import annotations

import random
from collections import Counter
from typing import cast

import pytest

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import IceCredentials, RemoteParameters, Role
from edgeice.peer import Endpoint, EndpointConfig, TurnServer
from edgeice.sansio import Action, Entropy, Resolve, Transmit, drain
from tests.unit.peer.pair import Pair


def sources(count: int, *, prefixes: int) -> list[TransportAddress]:
    """Addresses in so many /24s."""
    return [
        TransportAddress(f"198.{18 + n % prefixes // 256}.{n % prefixes % 256}.{n // prefixes % 250 + 1}", 1024 + n)
        for n in range(count)
    ]


class Flood:
    """Requests for A from many sources, and what was sent because of them."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.endpoint = pair.a.endpoint
        self.session = pair.a.connection
        self.answers: list[tuple[bytes, Transmit]] = []

    def send(self, request: bytes, source: TransportAddress) -> None:
        path = Path(self.pair.a.base.address, source)
        session = self.endpoint.receive_datagram(request, path, now=self.pair.now)
        if session is not None:
            session.receive_datagram(request, path, now=self.pair.now)
            session.batch_received(now=self.pair.now)

        def act(action: Action) -> None:
            assert isinstance(action, Transmit)
            self.answers.append((request, action))

        for machine in (self.endpoint, self.session):
            drain(machine, act, lambda _event: None)

    def codes(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for _, sent in self.answers:
            error = stun.decode(sent.data).get(stun.Attribute.ERROR_CODE)
            assert error is not None
            found[error.code] += 1
        return found


def request(ufrag: str | None, key: bytes | None, number: int) -> bytes:
    names = [] if ufrag is None else [(stun.Attribute.USERNAME, f"{ufrag}:evil")]
    return stun.encode(stun.Method.BINDING, stun.MessageClass.REQUEST, number.to_bytes(12), names, key=key)


def forged(pair: Pair, kind: str, number: int) -> bytes:
    ufrag = pair.a.connection.ufrag
    return {
        "bare": lambda: request(None, None, number),
        "unsigned": lambda: request(ufrag, None, number),
        "wrong-key": lambda: request(ufrag, b"a guess", number),
        "unknown": lambda: request("nobodys", b"a guess", number),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "code", "at", "reason"),
    [
        # A bare one is hardly larger than any refusal of it could be.
        ("bare", None, "endpoint", "unroutable"),
        ("unsigned", 400, "session", "integrity_missing"),
        ("wrong-key", 401, "session", "integrity_mismatch"),
        ("unknown", 401, "endpoint", "unroutable"),
    ],
)
def test_host_05_dec_9_ten_thousand_spoofed_requests_get_few_small_answers(
    kind: str, code: int | None, at: str, reason: str
) -> None:
    pair = Pair()
    flood = Flood(pair)
    begun = pair.now
    for number, source in enumerate(sources(10_000, prefixes=500)):
        flood.send(forged(pair, kind, number), source)
        pair.now = begun + number * 1e-4
    # A burst of ten and ten a second, for one second.
    assert len(flood.answers) == (0 if code is None else 19)
    assert set(flood.codes()) == (set() if code is None else {code})
    for asked, sent in flood.answers:
        assert len(sent.data) <= len(asked)
    drops = flood.endpoint.drops if at == "endpoint" else flood.session._link.ice.drops
    assert drops[reason] == 10_000
    assert drops["refusal_rate"] == 10_000 - 19
    pair.run(10.0)
    pair.send(pair.b, b"unharmed")
    pair.run(0.1)
    assert pair.a.messages == [b"unharmed"]


def test_host_05_one_prefix_gets_no_more_than_its_share_and_leaves_the_rest_to_others() -> None:
    pair = Pair()
    flood = Flood(pair)
    for number, source in enumerate(sources(250, prefixes=1)):
        flood.send(forged(pair, "unknown", number), source)
    assert len(flood.answers) == 5
    flood.send(forged(pair, "wrong-key", 999), TransportAddress("203.0.113.9", 999))
    assert len(flood.answers) == 6


def test_host_05_sessions_share_one_budget() -> None:
    pair = Pair()
    flood = Flood(pair)
    kinds = ("unsigned", "wrong-key", "unknown")
    for number, source in enumerate(sources(300, prefixes=300)):
        flood.send(forged(pair, kinds[number % 3], number), source)
    assert len(flood.answers) == 10


@pytest.mark.parametrize("kind", ["no-fingerprint", "indication", "allocate", "response", "garbage"])
def test_host_05_what_is_no_check_is_never_answered(kind: str) -> None:
    pair = Pair()
    flood = Flood(pair)
    name = [(stun.Attribute.USERNAME, "nobodys:evil")]
    method, request_class = stun.Method.BINDING, stun.MessageClass.REQUEST
    if kind == "indication":
        request_class = stun.MessageClass.INDICATION
    elif kind == "response":
        request_class = stun.MessageClass.SUCCESS
    elif kind == "allocate":
        method = stun.Method.ALLOCATE
    data = stun.encode(method, request_class, b"x" * 12, name, key=b"k", fingerprint=kind != "no-fingerprint")
    flood.send(random.Random(1).randbytes(100) if kind == "garbage" else data, TransportAddress("203.0.113.9", 9))
    assert flood.answers == []
    assert flood.endpoint.drops.total == 1


def test_host_11_no_candidate_names_a_server_of_this_host() -> None:
    """STUN servers, relays and the broker, by address or by a name that is looked up once a session begins."""
    config = EndpointConfig(
        stun=("stun:203.0.113.5",),
        turn=(TurnServer("turn:203.0.113.6:3479", "user", "secret"),),
        servers=(("203.0.113.7", 8883), ("broker.example", 1883)),
    )
    endpoint = Endpoint(config, entropy=Entropy.seeded(5))
    base = Base(TransportAddress("192.0.2.1", 4000), "eth0")
    endpoint.base_added(base, now=0.0)
    names: list[str] = []

    def act(action: Action) -> None:
        if isinstance(action, Resolve):
            names.append(action.name)

    drain(endpoint, act, lambda _event: None)
    assert names == []  # an idle device looks nothing up
    session = endpoint.connect_raw(Role.CONTROLLING, now=0.0)
    drain(endpoint, act, lambda _event: None)
    assert names == ["broker.example"]
    endpoint.resolved("broker.example", ["203.0.113.8", "2001:db8::8"], now=0.1)
    endpoint.connect_raw(Role.CONTROLLING, now=0.2)
    drain(endpoint, act, lambda _event: None)
    assert names == ["broker.example"]
    peer = IceCredentials("peer", "p" * 22)
    session.set_remote(RemoteParameters(credentials=peer, pacing=0.02), now=0.3)
    victims = ("203.0.113.5 3478", "203.0.113.6 3479", "203.0.113.7 8883", "203.0.113.8 1883", "2001:db8::8 1883")
    for number, victim in enumerate((*victims, "203.0.113.6 50000")):
        line = f"candidate:{number} 1 udp {2130706431 - number} {victim} typ host"
        session.add_remote_candidate(line, "peer", now=0.3)
    assert session._link.ice.drops["destination_protected"] == len(victims)
    sent: list[TransportAddress] = []
    for step in range(200):
        drain(session, lambda action: sent.append(cast("Transmit", action).path.remote), lambda _event: None)
        session.handle_timeout(now=0.3 + step * 0.05)
    assert set(sent) == {TransportAddress("203.0.113.6", 50000)}
