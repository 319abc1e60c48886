"""The verdict on a session: what was tried, what became of it, and where the time went."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.dtls import Certificate
from edgeice.ice import IceConfig, PairState, Role
from edgeice.peer import (
    ConnectionEnded,
    ConnectionState,
    Endpoint,
    EndpointConfig,
    RelayFailed,
    RelayGained,
    RelayLost,
    TurnServer,
)
from edgeice.peer.host import HostLog
from edgeice.peer.verdict import Phases
from edgeice.sansio import Entropy, Resolve, Transmit
from edgeice.stun import Attribute, MessageClass, Method, decode, encode
from edgeice.trace import Record, entry_of
from tests.support.ice_pair import World, address
from tests.unit.peer.pair import End, Pair

SERVER = TransportAddress("198.51.100.53", 3478)
BASE = Base(TransportAddress("192.0.2.1", 4000), "eth0")


def verdict(end: End, pair: Pair) -> dict[str, Any]:
    found = dict(end.connection.verdict(now=pair.now))
    assert json.loads(json.dumps(found)) == found  # plain values only
    return found


def test_a_session_that_goes_on_says_which_path_it_uses_and_what_each_pair_came_to() -> None:
    pair = Pair()
    found = verdict(pair.a, pair)
    assert (found["outcome"], found["state"], found["step"], found["reason"]) == ("open", "connected", "", "")
    assert found["path"] == {
        "local": "host 192.0.2.1:4000",
        "remote": "host 192.0.2.2:4000",
        "nominated": True,
        "rtt": pytest.approx(0.002),
    }
    assert found["finding"] == ""
    (tried,) = found["pairs"]
    assert (tried["local"], tried["remote"]) == ("host 192.0.2.1:4000", "host 192.0.2.2:4000")
    assert (tried["state"], tried["result"]) == ("succeeded", "")
    assert tried["requests_sent"] == tried["responses_received"] > 0
    assert (found["role"], found["generation"], found["policy"], found["gathered"]) == ("controlling", 0, "all", 0.0)
    assert verdict(pair.b, pair)["role"] == "controlled"


def test_the_phases_are_all_of_the_time() -> None:
    pair = Pair()
    pair.run(7.0)
    found = verdict(pair.a, pair)
    assert list(found["phases"]) == ["new", "checking", "securing", "connected"]
    assert sum(found["phases"].values()) == pytest.approx(found["seconds"], abs=0.01)
    assert found["phases"]["connected"] > 9
    for name in ("checking", "securing"):
        assert 0 < found["phases"][name] < 0.1


def test_phases_add_up_where_a_state_comes_back() -> None:
    phases = Phases(1.0)
    for at, state in ((2.0, ConnectionState.CONNECTED), (4.0, ConnectionState.INTERRUPTED)):
        phases.enter(state, at)
    phases.enter(ConnectionState.CONNECTED, 5.0)
    assert phases.report(10.0) == {"new": 1.0, "connected": 7.0, "interrupted": 1.0}
    phases.enter(ConnectionState.CLOSED, 11.0)
    assert phases.report(99.0) == {"new": 1.0, "connected": 8.0, "interrupted": 1.0}


def test_a_session_that_ended_keeps_the_verdict_of_its_end() -> None:
    pair = Pair()
    pair.a.connection.close(now=pair.now)
    pair.run(5.0)
    (ended,) = pair.a.of(ConnectionEnded)
    assert ended.verdict == verdict(pair.a, pair)
    assert (ended.verdict["outcome"], ended.verdict["step"], ended.verdict["reason"]) == (
        "ended",
        "closed",
        "closed here",
    )
    assert ended.verdict["path"] is not None
    assert sum(ended.verdict["phases"].values()) == pytest.approx(ended.verdict["seconds"], abs=0.01)  # type: ignore[attr-defined]
    (other,) = pair.b.of(ConnectionEnded)
    assert (other.verdict["outcome"], other.verdict["step"]) == ("ended", "closed")


def test_a_session_that_never_came_about_says_why_and_which_pairs_were_tried() -> None:
    endpoint = Endpoint(EndpointConfig(), entropy=Entropy.seeded(1))
    endpoint.base_added(BASE, now=0.0)
    certificate = Certificate.generate()
    session = endpoint.connect(certificate, Role.CONTROLLED, now=0.0)
    peer = Endpoint(EndpointConfig(), entropy=Entropy.seeded(2))
    peer.base_added(Base(TransportAddress("192.0.2.2", 5000), "eth0"), now=0.0)
    session.accept_offer(peer.connect(certificate, Role.CONTROLLING, now=0.0).create_offer(now=0.0), now=1.0)
    ended = None
    while ended is None:
        at = session.next_timeout()
        assert at is not None
        session.handle_timeout(now=at)
        while session.poll_action() is not None:
            pass
        while (event := session.poll_event()) is not None:
            if isinstance(event, ConnectionEnded):
                ended = event
    found: dict[str, Any] = dict(ended.verdict)
    assert (found["outcome"], found["step"], found["reason"], found["path"]) == ("failed", "ice", "silence", None)
    assert found["finding"] == "silence"
    assert found["phases"] == {"new": 1.0, "checking": pytest.approx(found["seconds"] - 1.0)}
    (tried,) = found["pairs"]
    assert (tried["state"], tried["result"], tried["requests_sent"]) == ("failed", "timeout", 7)
    assert found["local_candidates"] == found["remote_candidates"] == {"host": 1}


def test_a_session_whose_path_is_lost_says_which_it_was() -> None:
    pair = Pair()
    before = verdict(pair.a, pair)["path"]
    pair.a.endpoint.base_removed(pair.a.base.address, now=pair.now)
    found = verdict(pair.a, pair)
    assert (found["state"], found["outcome"]) == ("interrupted", "open")
    assert before is not None
    assert {**before, "nominated": True} == found["path"]
    assert found["pairs"][0]["local"] == "host 192.0.2.1:4000"  # though it is gone


def test_pairs_that_nomination_let_go_are_still_told_and_each_once() -> None:
    world = World()
    world.a.add_base(address(1))
    world.a.add_base(address(3))
    world.b.add_base(address(2))
    # What A sends from its second address is lost.
    world.filter = lambda _sender, sent: address(3) not in (sent.path.local, sent.path.remote)
    for agent in (world.a, world.b):
        agent.end()
    world.exchange()
    world.run(10.0)
    assert world.states == ("completed", "completed")
    for agent in (world.a, world.b):
        assert len(list(agent.ice._slots.current.checklist)) == 1
    report = world.a.ice.report(now=world.now)
    told = {str(pair.local_address): (pair.state, pair.responses_received > 0) for pair in report.pairs}
    assert len(report.pairs) == 2
    assert told["192.0.2.1:4000"] == (PairState.SUCCEEDED, True)
    assert told["192.0.2.3:4000"] == (PairState.IN_PROGRESS, False)
    checklist = world.a.ice._slots.current.checklist
    assert checklist.dropped.maxlen == IceConfig().max_pairs
    checklist.dropped.extend(checklist)  # known twice: told once, as it is now
    assert len(world.a.ice.report(now=world.now).pairs) == 2


# Servers and addresses


def test_each_servers_last_answer_to_each_address_is_told() -> None:
    endpoint = Endpoint(EndpointConfig(stun=(f"stun:{SERVER}", "stun:nowhere.example")), entropy=Entropy.seeded(1))
    assert endpoint.poll_action() == Resolve("nowhere.example", service="_stun._udp")
    endpoint.base_added(BASE, now=0.0)
    endpoint.located("nowhere.example", "_stun._udp", [], now=0.0)

    def ask(now: float) -> Transmit:
        endpoint.handle_timeout(now=now)
        action = endpoint.poll_action()
        assert isinstance(action, Transmit)
        while endpoint.poll_action() is not None:
            pass
        return action

    def answer(request: Transmit, mapped: TransportAddress, now: float) -> None:
        data = encode(
            Method.BINDING,
            MessageClass.SUCCESS,
            decode(request.data).transaction_id,
            [(Attribute.XOR_MAPPED_ADDRESS, mapped)],
        )
        endpoint.receive_datagram(data, Path(BASE.address, SERVER), now=now)

    def told() -> list[tuple[object, object, object]]:
        while endpoint.poll_event() is not None:
            pass
        servers: Any = endpoint.report()["servers"]
        return [(each["server"], each["base"], each["address"] or each["result"]) for each in servers]

    public = TransportAddress("203.0.113.1", 4444)
    name = f"stun:{SERVER}"
    assert told()[-1] == (name, str(BASE.address), "asked")
    answer(ask(0.0), public, 0.1)
    unknown = ("stun:nowhere.example:3478", None, "name_unknown")
    assert told() == [unknown, (name, str(BASE.address), str(public))]
    at = endpoint.next_timeout()
    assert at is not None
    ask(at)  # and no answer comes
    while (at := endpoint.next_timeout()) is not None and told()[-1][2] != "timeout":
        endpoint.handle_timeout(now=at)
        while endpoint.poll_action() is not None:
            pass
    assert told()[-1] == (name, str(BASE.address), "timeout")
    at = endpoint.next_timeout()
    assert at is not None
    answer(ask(at), public, at + 0.1)  # the same as before: it works again
    assert told() == [unknown, (name, str(BASE.address), str(public))]
    endpoint.base_removed(BASE.address, now=at + 1)
    assert told() == [unknown]


def test_relays_have_their_place_and_what_they_said_last_counts() -> None:
    log = HostLog()
    uri, relayed = "turn:relay.example", TransportAddress("203.0.113.9", 50000)
    log.take(RelayFailed(uri, BASE.address, SERVER, "unauthorized", 401))
    log.take(RelayFailed("turns:relay.example", BASE.address, SERVER, "certificate refused: Hostname mismatch", None))
    assert [(each["result"], each["code"]) for each in log.servers([])] == [
        ("unauthorized", 401),
        ("certificate refused: Hostname mismatch", None),
    ]
    log.take(RelayGained(uri, BASE.address, relayed, 0.02))
    assert log.servers([])[-1] == {
        "server": uri,
        "base": str(BASE.address),
        "result": "answered",
        "code": None,
        "address": str(relayed),
    }
    log.take(RelayLost(uri, BASE.address, "timeout"))
    assert [each["result"] for each in log.servers([])] == ["certificate refused: Hostname mismatch", "timeout"]


def test_servers_that_were_asked_and_gave_no_answer_so_far_are_told_too() -> None:
    config = EndpointConfig(
        stun=(f"stun:{SERVER}", "stun:slow.example"),
        turn=(TurnServer("turn:198.51.100.54", "u", "p"), TurnServer("turns:slower.example", "u", "p")),
    )
    endpoint = Endpoint(config, entropy=Entropy.seeded(1))
    endpoint.base_added(BASE, now=0.0)
    endpoint.connect(Certificate.generate(), Role.CONTROLLING, now=0.0)
    for _ in range(10):
        at = endpoint.next_timeout()
        assert at is not None
        if at > 5:
            break
        endpoint.handle_timeout(now=at)
        while endpoint.poll_action() is not None:
            pass
    servers: Any = endpoint.report()["servers"]
    assert {(each["server"], each["base"], each["result"]) for each in servers} == {
        (f"stun:{SERVER}", str(BASE.address), "asked"),
        ("stun:slow.example", None, "asked"),
        ("turn:198.51.100.54?transport=udp", str(BASE.address), "asked"),
        ("turns:slower.example?transport=tcp", None, "asked"),
    }
    log = HostLog()
    log.take(RelayFailed("turn:a", BASE.address, SERVER, "quota", 486))
    again = [("turn:a", BASE.address), ("turn:b", BASE.address), ("turn:b", BASE.address)]
    assert [(each["server"], each["result"]) for each in log.servers(again)] == [
        ("turn:a", "quota"),
        ("turn:b", "asked"),
    ]


def test_what_is_remembered_of_servers_is_bounded() -> None:
    log = HostLog()
    for number in range(1000):
        log.take(RelayFailed(f"turn:{number}.example", None, None, "name_unknown", None))
    assert [each["server"] for each in log.servers([])][::255] == ["turn:744.example", "turn:999.example"]


def test_an_address_that_cannot_be_sent_from_is_told_with_the_kernels_reason() -> None:
    endpoint = Endpoint(EndpointConfig(), entropy=Entropy.seeded(1))
    other = Base(TransportAddress("192.0.2.9", 4000), "wwan0")
    for base in (BASE, other):
        endpoint.base_added(base, now=0.0)
    path = Path(other.address, SERVER)
    for code in (errno.ENETUNREACH, errno.ENETUNREACH, errno.EPERM, 9999):
        endpoint.socket_error(path, code, now=1.0)
    bases: Any = endpoint.report()["bases"]
    assert [(each["interface"], each["unsent"]) for each in bases] == [
        ("eth0", {}),
        ("wwan0", {"ENETUNREACH": 2, "EPERM": 1, "UNKNOWN": 1}),
    ]
    endpoint.base_removed(other.address, now=2.0)
    endpoint.socket_error(path, errno.ENETUNREACH, now=2.0)  # told late
    endpoint.base_added(other, now=3.0)
    bases = endpoint.report()["bases"]
    assert [each["unsent"] for each in bases] == [{}, {}]


# Traces


def test_a_sessions_trace_has_its_candidates_states_timers_and_path_and_no_secret() -> None:
    records: list[Record] = []
    endpoint = Endpoint(EndpointConfig(), entropy=Entropy.seeded(1), tracer=records.append)
    endpoint.base_added(BASE, now=0.0)
    certificate = Certificate.generate()
    session = endpoint.connect(certificate, Role.CONTROLLED, now=0.0)
    other = endpoint.connect(certificate, Role.CONTROLLED, now=0.0)
    peer = Endpoint(EndpointConfig(), entropy=Entropy.seeded(2))
    peer.base_added(Base(TransportAddress("192.0.2.2", 5000), "eth0"), now=0.0)
    opposite = peer.connect(certificate, Role.CONTROLLING, now=0.0)
    session.accept_offer(opposite.create_offer(now=0.0), now=1.0)
    session.add_remote_candidate("candidate:1 1 tcp 1 192.0.2.3 9 typ host", opposite.ufrag, now=1.0)
    session.close(now=2.0)
    entries = [entry_of(record) for record in records]
    names = [f"{entry['layer']}.{entry['name']}" for entry in entries if entry.get("session") == session.session_id]
    for name in ("peer.local_candidate", "peer.remote_candidate", "peer.state", "peer.IceStateChanged"):
        assert name in names
    assert {entry["session"] for entry in entries} == {session.session_id, other.session_id}
    told = [entry for entry in entries if entry["name"] == "remote_candidate"]
    assert [entry.get("ignored") for entry in told] == [None, "candidate_transport"]
    states = [(entry["was"], entry["state"]) for entry in entries if entry["name"] == "state"]
    assert states == [("new", "checking"), ("checking", "closed")]
    text = json.dumps(entries)
    for connection in (session, opposite, other):
        assert connection._link.ice.local_credentials.pwd not in text


def test_dtls_and_the_association_are_in_the_trace_with_their_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[list[Record]] = []

    def traced(config: EndpointConfig, *, entropy: Entropy) -> Endpoint:
        ends.append([])
        return Endpoint(config, entropy=entropy, tracer=ends[-1].append)

    monkeypatch.setattr("tests.unit.peer.pair.Endpoint", traced)
    pair = Pair()
    for records in ends:
        steps = [record.name for record in records if record.name in ("state", "secured", "association")]
        assert steps == ["state", "state", "secured", "state", "association"]
        records.clear()
    pair.holds = True  # nothing but checks passes
    pair.send(pair.a, b"lost")
    pair.run(3.0)
    assert {record.fields["timer"] for record in ends[0] if record.layer == "peer"} == {"sctp"}
