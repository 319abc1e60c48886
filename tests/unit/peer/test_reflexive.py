"""Server-reflexive addresses: asking at a bounded rate, keeping, forgetting (RFC 8445 §5.1.1.2, §5.1.1.4, §14)."""

from __future__ import annotations

import errno
import itertools
import math

import pytest

from edgeice import stun
from edgeice.addresses import Base, Path, TransportAddress
from edgeice.errors import ConfigError
from edgeice.ice import IceCredentials, RemoteParameters, Role, ServerReflexiveLearned, ServerUnanswered
from edgeice.peer import Endpoint, EndpointConfig, IceConnection, TurnServer
from edgeice.sansio import Action, Entropy, Event, Machine, Resolve, Transmit, drain

#: The default Ta, in seconds.
TA = 0.020
ROUND_TRIP = 0.030


def base(host: int) -> Base:
    return Base(TransportAddress(f"192.0.2.{host}", 4000), f"eth{host}")


def server(number: int) -> TransportAddress:
    return TransportAddress(f"203.0.113.{number}", 3478)


def uris(*numbers: int) -> tuple[str, ...]:
    return tuple(f"stun:{server(number).ip}:3478" for number in numbers)


class Host:
    """An endpoint with servers and sessions, in virtual time.

    Attributes:
        dead: Servers that never answer; any others but the known ones do not either.
        refuses: Servers that answer with an error.
        moved: What the NAT makes of a base, where that is not the usual.
        sent: When each request left, from the start, its path and its transaction id; repetitions included.
    """

    def __init__(self, *servers: str, turn: tuple[TurnServer, ...] = ()) -> None:
        self.now = 100.0
        self.start = self.now
        self.endpoint = Endpoint(EndpointConfig(stun=servers, turn=turn), entropy=Entropy.seeded(1))
        self.sessions: list[IceConnection] = []
        self.dead: set[TransportAddress] = set()
        self.refuses: set[TransportAddress] = set()
        self.moved: dict[TransportAddress, TransportAddress] = {}
        self.sent: list[tuple[float, Path, bytes]] = []
        self.events: list[tuple[float, Event]] = []
        self.resolving: list[str] = []
        self._answers: list[tuple[float, Path, bytes]] = []
        self.drain()

    def connect(self) -> IceConnection:
        self.sessions.append(self.endpoint.connect_raw(Role.CONTROLLING, now=self.now))
        return self.sessions[-1]

    def drain(self) -> None:
        drain(self.endpoint, self._act, lambda event: self.events.append((self._elapsed, event)))
        for session in self.sessions:
            drain(session, self._act, lambda _event: None)

    @property
    def _elapsed(self) -> float:
        return round(self.now - self.start, 6)

    def _act(self, action: Action) -> None:
        if isinstance(action, Resolve):
            self.resolving.append(action.name)
            return
        assert isinstance(action, Transmit)
        request = stun.decode(action.data)
        self.sent.append((self._elapsed, action.path, request.transaction_id))
        local, remote = action.path.local, action.path.remote
        if remote in self.dead or not remote.ip.startswith("203.0.113."):
            return
        if remote in self.refuses:
            error = [(stun.Attribute.ERROR_CODE, stun.ErrorCode(500))]
            answer = stun.encode(stun.Method.BINDING, stun.MessageClass.ERROR, request.transaction_id, error)
        else:
            answer = stun.success_response(request, self.moved.get(local, mapped(local)))
        self._answers.append((self.now + ROUND_TRIP, action.path, answer))

    def add(self, *bases: Base) -> None:
        for each in bases:
            self.endpoint.base_added(each, now=self.now)
            self.drain()

    def remove(self, *bases: Base) -> None:
        for each in bases:
            self.endpoint.base_removed(each.address, now=self.now)
            self.drain()

    def resolve(self, name: str, *ips: str) -> None:
        self.endpoint.resolved(name, list(ips), now=self.now)
        self.drain()

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        machines: list[Machine] = [self.endpoint, *self.sessions]
        for _ in range(10_000):
            at = min((due for each in machines if (due := each.next_timeout()) is not None), default=math.inf)
            at = min(at, self._answers[0][0] if self._answers else at)
            if at > until:
                break
            self.now = max(self.now, at)
            if self._answers and self._answers[0][0] <= self.now:
                _, path, data = self._answers.pop(0)
                assert self.endpoint.receive_datagram(data, path, now=self.now) is None
            else:
                for each in machines:
                    each.handle_timeout(now=self.now)
            self.drain()
        else:
            raise AssertionError("time does not pass")
        self.now = until

    def began(self) -> dict[bytes, float]:
        """When each transaction began."""
        return {transaction_id: at for at, _, transaction_id in reversed(self.sent)}

    def learned(self) -> dict[tuple[TransportAddress, TransportAddress], float]:
        """When each server's answer about each base was first known."""
        told = [(event, at) for at, event in reversed(self.events) if isinstance(event, ServerReflexiveLearned)]
        return {(event.base, event.server): at for event, at in told}

    def learned_last(self) -> TransportAddress:
        return [event.mapped for _, event in self.events if isinstance(event, ServerReflexiveLearned)][-1]

    def unanswered(self) -> list[tuple[TransportAddress, TransportAddress, str]]:
        told = [event for _, event in self.events if isinstance(event, ServerUnanswered)]
        return [(event.base, event.server, event.reason) for event in told]

    def candidates(self, session: IceConnection) -> set[tuple[str, str]]:
        """Address and type of a session's candidates."""
        words = [line.split() for line in session.local_candidates(now=self.now)[0]]
        return {(each[4], each[7]) for each in words}


def mapped(local: TransportAddress) -> TransportAddress:
    """What the NAT makes of a base."""
    return TransportAddress(f"198.51.100.{local.ip.rpartition('.')[2]}", 50000)


def test_ice_04_one_new_transaction_begins_each_ta_and_a_dead_server_delays_nobody() -> None:
    host = Host(*uris(1, 2, 3))
    host.dead = {server(1)}
    session = host.connect()
    host.add(base(1), base(2))
    host.run(10.0)
    assert sorted(host.began().values()) == [round(TA * number, 6) for number in range(6)]
    # The dead one was asked first, and everybody else's answer is there one round trip after the question.
    asked = {(path.local, path.remote): at for at, path, _ in reversed(host.sent)}
    assert [key[1] for key, at in asked.items() if at == 0.0] == [server(1)]
    assert host.learned() == {key: round(at + ROUND_TRIP, 6) for key, at in asked.items() if key[1] != server(1)}
    assert len(host.learned()) == 4
    expected = {(f"192.0.2.{number}", "host") for number in (1, 2)}
    assert host.candidates(session) == expected | {(f"198.51.100.{number}", "srflx") for number in (1, 2)}
    assert not session.local_candidates(now=host.now)[1]
    host.run(30.0)
    assert session.local_candidates(now=host.now)[1]
    assert host.unanswered() == [(each.address, server(1), "timeout") for each in (base(1), base(2))]


def test_ice_04_a_server_that_refuses_is_settled_at_once() -> None:
    host = Host(*uris(1, 2))
    host.refuses = {server(1)}
    session = host.connect()
    host.add(base(1))
    host.run(1.0)
    assert host.unanswered() == [(base(1).address, server(1), "error_500")]
    assert list(host.learned()) == [(base(1).address, server(2))]
    assert session.local_candidates(now=host.now)[1]


def test_ice_22_gathering_and_three_sessions_begin_their_transactions_five_ms_apart() -> None:
    host = Host(*uris(1, 2, 3))
    for number in range(3):
        session = host.connect()
        remote = IceCredentials(f"peer{number}", "p" * 22)
        session.set_remote(RemoteParameters(credentials=remote, pacing=TA), now=host.now)
        for other in range(5):
            line = f"candidate:{other} 1 udp {1000 - other} 192.0.2.{100 + other} 4000 typ host"
            session.add_remote_candidate(line, remote.ufrag, now=host.now)
    host.add(base(1), base(2))
    host.run(1.0)
    began = sorted(host.began().values())
    # Six questions to servers and ten pairs in each of three sessions.
    assert len(began) == 36
    gaps = [round(later - earlier, 6) for earlier, later in itertools.pairwise(began)]
    assert min(gaps) == 0.005
    # No slot is lost while all have something to ask.
    assert gaps[:20] == [0.005] * 20


def test_ice_33_what_the_network_refuses_is_told_to_the_sessions_that_check_there() -> None:
    host = Host()
    host.add(base(1))
    paths = [Path(base(1).address, TransportAddress(f"192.0.2.{number}", 4000)) for number in (101, 102)]
    for number in range(2):
        session = host.connect()
        remote = IceCredentials(f"peer{number}", "p" * 22)
        session.set_remote(RemoteParameters(credentials=remote, pacing=TA), now=host.now)
        for priority, path in ((2, paths[0]), (1, paths[1])):
            line = f"candidate:f 1 udp {priority} {path.remote.ip} 4000 typ host"
            session.add_remote_candidate(line, remote.ufrag, now=host.now)
    for seconds in (0.3, 0.6):
        host.run(seconds)
        # Two sessions, one path; the second pair of each is frozen while its first is checked.
        assert {path for _, path, _ in host.sent} == {paths[0]}
        host.endpoint.socket_error(paths[0], errno.EHOSTUNREACH, now=host.now)
        host.endpoint.socket_error(Path(base(2).address, paths[0].remote), errno.EHOSTUNREACH, now=host.now)
    assert [host.endpoint.poll_touched() for _ in range(5)] == [*host.sessions, *host.sessions, None]
    host.run(0.1)
    assert [path for _, path, _ in host.sent].count(paths[1]) == 2
    assert host.endpoint.drops["socket-error"] == 4


def test_ice_22_servers_and_relays_have_their_turns_beside_sessions_that_always_have_something_to_ask() -> None:
    relay = TurnServer("turn:192.0.2.201", "user", "password")
    host = Host(*uris(1, 2, 3), turn=(relay,))
    host.dead = {server(1)}
    for number in range(20):
        session = host.connect()
        remote = IceCredentials(f"peer{number}", "p" * 22)
        session.set_remote(RemoteParameters(credentials=remote, pacing=TA), now=host.now)
        for other in range(30):
            line = f"candidate:{other} 1 udp {1000 - other} 192.0.2.{100 + other} 4000 typ host"
            session.add_remote_candidate(line, remote.ufrag, now=host.now)
    host.add(base(1), base(2), base(3))
    host.run(2.0)
    asked = [at for at, path, _ in host.sent if path.remote.ip.startswith("203.0.113.")]
    allocating = [at for at, path, _ in host.sent if path.remote.port == 3478 and path.remote.ip == "192.0.2.201"]
    # Each round of the twenty sessions takes 100 ms, and gathering has one turn in it.
    assert max(asked[:9]) < 1.2
    assert len(allocating) >= 3
    assert min(allocating) < 1.6
    began = sorted(host.began().values())
    assert min(round(later - earlier, 6) for earlier, later in itertools.pairwise(began)) == 0.005


@pytest.mark.parametrize(("servers", "bases", "rto"), [(1, 1, 0.5), (5, 5, 0.5), (8, 4, 0.64)])
def test_ice_23_a_question_is_repeated_after_half_a_second_or_when_all_were_asked(
    servers: int, bases: int, rto: float
) -> None:
    host = Host(*uris(*range(1, servers + 1)))
    host.dead = {server(number) for number in range(1, servers + 1)}
    host.add(*(base(number) for number in range(1, bases + 1)))
    host.run(3.0)
    times: dict[bytes, list[float]] = {}
    for at, _, transaction_id in host.sent:
        times.setdefault(transaction_id, []).append(at)
    assert len(times) == servers * bases
    waits = [round(second - first, 6) for first, second, *_ in times.values()]
    assert min(waits) >= 0.5
    # The last began when all were known.
    assert waits[-1] == rto


def test_ice_06_a_mapping_is_kept_by_asking_again_and_what_changed_is_told() -> None:
    host = Host(*uris(1))
    host.add(base(1))
    host.run(100.0)
    gaps = [later - earlier for earlier, later in itertools.pairwise(sorted(host.began().values()))]
    assert len(gaps) == 3
    # 25 s from answer to question, spread by a tenth.
    assert all(22.5 <= gap - ROUND_TRIP <= 27.5 for gap in gaps)
    assert len(set(gaps)) == 3
    assert list(host.learned()) == [(base(1).address, server(1))]
    host.moved[base(1).address] = TransportAddress("198.51.100.99", 61000)
    host.run(30.0)
    told = [event.mapped for _, event in host.events if isinstance(event, ServerReflexiveLearned)]
    assert told == [mapped(base(1).address), TransportAddress("198.51.100.99", 61000)]
    # A session that begins now is told the present one only.
    assert host.candidates(host.connect()) == {("192.0.2.1", "host"), ("198.51.100.99", "srflx")}


def test_ice_06_a_mapping_that_moves_for_ever_fills_no_table() -> None:
    host = Host(*uris(1))
    session = host.connect()
    host.add(base(1))
    for number in range(1, 101):
        host.moved[base(1).address] = TransportAddress("198.51.100.99", 50000 + number)
        host.run(28.0)
    latest = host.learned_last()
    # A restart describes what holds now, and nothing that did before.
    session.restart(now=host.now)
    assert host.candidates(session) == {("192.0.2.1", "host"), (latest.ip, "srflx")}
    lines, _ = session.local_candidates(now=host.now)
    assert lines == ()


def test_ice_12_a_session_orders_the_families_of_the_bases_that_there_are() -> None:
    host = Host()
    v6 = [Base(TransportAddress(f"2001:db8::{number}", 4000), "eth0") for number in range(1, 7)]
    host.add(base(1), base(2), *v6)
    words = [line.split() for line in host.connect().local_candidates(now=host.now)[0]]
    families = [6 if ":" in each[4] else 4 for each in sorted(words, key=lambda each: -int(each[3]))]
    assert families == [6, 6, 6, 6, 4, 6, 4, 6]


def test_ice_06_a_base_that_goes_takes_its_candidates_along_and_a_new_one_is_asked_about() -> None:
    host = Host(*uris(1))
    host.add(base(1), base(2))
    host.run(1.0)
    host.remove(base(1))
    host.add(base(3))
    host.sent.clear()
    host.run(60.0)
    assert {path.local for _, path, _ in host.sent} == {base(2).address, base(3).address}
    assert host.candidates(host.connect()) == {
        (ip, kind)
        for number in (2, 3)
        for ip, kind in ((f"192.0.2.{number}", "host"), (f"198.51.100.{number}", "srflx"))
    }
    host.remove(base(2), base(3))
    assert host.endpoint.next_timeout() is None


def test_ice_06_an_answer_to_a_base_that_is_gone_is_nobodys() -> None:
    host = Host(*uris(1))
    host.add(base(1))
    host.remove(base(1))
    host.run(1.0)
    assert host.learned() == {}
    assert host.endpoint.drops["unroutable"] == 1


def test_two_names_of_one_server_are_asked_once() -> None:
    host = Host("stun:one.example:3478", "stun:two.example:3478")
    session = host.connect()
    host.add(base(1))
    assert host.resolving == ["one.example", "two.example"]
    host.resolve("one.example", server(1).ip)
    host.run(0.5)
    assert not session.local_candidates(now=host.now)[1]
    host.resolve("two.example", server(1).ip)
    host.run(10.0)
    assert len(host.began()) == 1
    assert session.local_candidates(now=host.now)[1]


@pytest.mark.parametrize("text", ["", "stun:", "http://x", "stuns:a.example", "stun:a:99999"])
def test_what_is_no_stun_server_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Host(text)


def test_more_servers_than_are_asked_are_refused() -> None:
    with pytest.raises(ConfigError):
        Host(*uris(*range(1, 10)))
