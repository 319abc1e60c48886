"""Allocations that move with their host (RFC 8016): where to, for how long, and what sessions notice of it."""

from __future__ import annotations

from collections import deque

import attrs
import pytest

from edgeice.addresses import Base, Path, TransportAddress
from edgeice.ice import RemoteParameters
from edgeice.ice.credentials import generate_credentials
from edgeice.peer import CandidateGathered, IceConnection, RelayGained, RelayLost, RelayMoved
from edgeice.sansio import Entropy
from edgeice.stun import Message, Method
from tests.support.relayed_endpoint import Relay, RelayedEndpoint
from tests.support.turn_server import TurnServer as Server

NEAR = TransportAddress("192.0.2.1", 3478)
PEER = TransportAddress("198.51.100.3", 7000)
#: One way to the server, seconds.
DELAY = 0.005


def mobile() -> Server:
    server = Server()
    server.mobility = "given"
    return server


def relay(**changes: object) -> Relay:
    """A server that gives tickets."""
    return attrs.evolve(Relay(NEAR, DELAY, make=mobile), **changes)  # type: ignore[arg-type]  # fields of Relay


@attrs.define
class Roaming:
    """A host with a session that talks to a peer through its relay."""

    host: RelayedEndpoint
    relay: Relay
    session: IceConnection
    path: Path

    @property
    def server(self) -> Server:
        """The server's side of the allocation of the path."""
        return next(each for each in self.relay.clients.values() if each.relayed[0] == self.path.local)

    def bases(self) -> list[Base]:
        """The relayed bases of the endpoint."""
        return [base for base in self.host.endpoint._bases.values() if base.server]

    def send(self, data: bytes) -> bool:
        """Send a session's datagram to the peer on the path; whether the peer got it."""
        before = len(self.server.relayed_data)
        assert self.host.endpoint.send_relayed(self.path, data, now=self.host.now)
        self.host.drain()
        self.host.run(DELAY)
        return (PEER, data) in self.server.relayed_data[before:]

    def answer(self) -> None:
        """A datagram of the peer's arrives."""
        (path,) = [path for path, server in self.relay.clients.items() if server is self.server]
        assert isinstance(path, Path)
        self.host.arrive(path, self.server.indication(PEER, b"answer"))

    def converse(self) -> None:
        """Send, and have an answer."""
        assert self.send(b"question")
        self.host.run(DELAY)
        self.answer()

    def gap(self) -> float:
        """Seconds until something sent from now on arrives at the peer, tried each millisecond."""
        before, start = len(self.server.relayed_data), self.host.now
        for _ in range(2000):
            self.host.endpoint.send_relayed(self.path, b"tick", now=self.host.now)
            self.host.drain()
            self.host.run(0.001)
            if (PEER, b"tick") in self.server.relayed_data[before:]:
                return self.host.now - start
        return float("inf")


def roaming(
    *interfaces: str, uri: str = "turn:192.0.2.1", mobility: bool = False, **changes: object
) -> tuple[Roaming, list[Base]]:
    """A host with these interfaces, whose session has a relayed path from the first of them."""
    server = relay(**changes)
    host = RelayedEndpoint(server, uris=[uri])
    bases = [
        host.add_base(f"10.{number}.0.1", interface=name, cost=900 if name.startswith("wwan") else 10)
        for number, name in enumerate(interfaces)
    ]
    session = host.connect()
    host.run(1)
    credentials = generate_credentials(Entropy.seeded(9))
    parameters = RemoteParameters(credentials=credentials, renomination=mobility, mobility=mobility)
    session.set_remote(parameters, now=host.now)
    line = f"candidate:1 1 udp 2130706431 {PEER.ip} {PEER.port} typ host"
    session.add_remote_candidate(line, credentials.ufrag, now=host.now)
    host.run(1)
    relayed = next(base for base in host.endpoint._bases.values() if base.server and base.interface == interfaces[0])
    found = Roaming(host, server, session, Path(relayed.address, PEER))
    host.endpoint._routes.claim(session.session_id, found.path)
    host.endpoint._routes.select(session.session_id, found.path)
    found.send(b"opens the way")
    host.run(1)
    assert found.send(b"first")
    return found, bases


def forget(server: Server) -> None:
    """The server is started again."""
    server.allocated_until = None
    server.permissions.clear()
    server.nonce = b"nonce-2"
    server.is_deaf = True


# Where to


def test_rfc8016_another_address_of_the_interface_carries_it_on() -> None:
    it, (first, _) = roaming("wlan0", "wwan0")
    second = it.host.add_base("10.0.0.2", interface="wlan0", cost=10)
    before = it.bases()
    it.host.remove_base(first)
    assert it.gap() == pytest.approx(DELAY, abs=0.0011)  # data goes right behind the ticket
    assert it.bases() == before
    it.host.run(1)
    (moved,) = it.host.of(RelayMoved)
    assert moved == RelayMoved("turn:192.0.2.1?transport=udp", second.address, it.path.local, pytest.approx(2 * DELAY))  # type: ignore[arg-type]
    # One request moved it, and nothing else was asked: of this allocation and of any other.
    counted = it.server.counted()
    assert (counted["ALLOCATE"], counted["REFRESH"], counted["CREATE_PERMISSION"], counted["CHANNEL_BIND"]) == (
        2,
        1,
        1,
        1,
    )
    assert len(it.host.of(RelayGained)) == 2
    assert it.host.opened == []


def test_rfc8016_the_gap_is_a_round_trip_more_with_another_nonce() -> None:
    it, (first,) = roaming("wlan0")
    it.host.add_base("10.0.0.2", interface="wlan0")
    it.server.nonce = b"nonce-2"
    it.server.is_deaf = True  # what comes before the ticket does not count as it does with a real server
    it.host.remove_base(first)
    here = []
    for _ in range(2):
        it.host.run(DELAY * 2)
        here.append(it.server.is_here)
    assert here == [False, True]
    it.server.is_deaf = False
    it.host.run(1)
    (moved,) = it.host.of(RelayMoved)
    assert isinstance(moved, RelayMoved)
    assert moved.rtt == pytest.approx(2 * DELAY)


def test_rfc8016_another_interface_carries_it_on_and_sessions_keep_their_base() -> None:
    it, (lost, kept) = roaming("wlan0", "wwan0")
    addresses = {base.address for base in it.bases()}
    removed: list[TransportAddress] = []

    def hear(address: TransportAddress, *, now: float) -> None:
        assert now == it.host.now
        removed.append(address)

    it.session.base_removed = hear  # type: ignore[method-assign]  # to see
    it.host.remove_base(lost)
    assert removed == [lost.address]
    assert {base.address for base in it.bases()} == addresses
    (base,) = [base for base in it.bases() if base.address == it.path.local]
    assert (base.interface, base.cost) == ("wwan0", 900)
    assert it.gap() == pytest.approx(DELAY, abs=0.0011)
    # The other interface has an allocation on this 5-tuple: this one has a socket of its own.
    (flow,) = it.host.opened
    assert (flow.remote, flow.interface, flow.datagrams, flow.tls_name) == (NEAR, "wwan0", True, None)
    assert it.relay.allocations == 2
    it.host.run(1)
    assert [event.base for event in it.host.of(RelayMoved) if isinstance(event, RelayMoved)] == [kept.address]
    assert it.host.of(RelayLost) == []


def test_rfc8016_a_peer_that_follows_is_told_what_the_relayed_address_costs_now() -> None:
    it, (lost, _) = roaming("wlan0", "wwan0", mobility=True)
    lines = it.host.relayed(it.session)
    assert [line.partition(" network-id ")[2] for line in lines] == ["1 network-cost 10", "2 network-cost 900"]
    it.host.remove_base(lost)
    it.host.run(1)
    (told,) = [
        each.candidate for each in it.host.told if isinstance(each, CandidateGathered) and " relay " in each.candidate
    ]
    # The same candidate, by another network.
    assert told.partition(" network-id ")[::2] == (lines[0].partition(" network-id ")[0], "2 network-cost 900")


def test_rfc8016_a_guest_takes_no_place_of_its_hosts_own() -> None:
    it, (lost,) = roaming("wlan0")

    def full() -> Server:
        server = mobile()
        server.errors[Method.ALLOCATE] = deque([486])
        return server

    it.relay.make = full
    it.host.add_base("10.1.0.1", interface="wwan0", cost=900)
    it.host.run(1)
    it.host.remove_base(lost)
    it.host.run(55)
    assert [base.interface for base in it.bases()] == ["wwan0"]
    it.host.run(10)
    assert [base.interface for base in it.bases()] == ["wwan0", "wwan0"]
    assert it.relay.allocations == 2
    assert it.send(b"on")


def test_rfc8016_of_several_interfaces_the_cheapest_carries_it_on() -> None:
    it, (lost, _, cheap) = roaming("wlan0", "wwan0", "eth0")
    it.host.remove_base(lost)
    it.host.run(1)
    (base,) = [base for base in it.bases() if base.address == it.path.local]
    assert base.interface == cheap.interface == "eth0"


def test_rfc8016_its_own_interface_comes_before_a_cheaper_one() -> None:
    it, (lost, _) = roaming("wwan0", "eth0")
    it.host.add_base("10.0.0.2", interface="wwan0", cost=900)
    it.host.remove_base(lost)
    it.host.run(1)
    (base,) = [base for base in it.bases() if base.address == it.path.local]
    assert base.interface == "wwan0"
    # How the server sees the other address nobody has said.
    relays = it.host.endpoint._relays
    assert relays is not None
    assert [learned.base.ip for learned in relays.learned()] == ["10.1.0.1"]


def test_rfc8016_an_address_of_another_family_carries_nothing() -> None:
    it, (lost,) = roaming("wlan0")
    it.host.add_base("2001:db8::1", interface="wlan0")
    it.host.remove_base(lost)
    it.host.run(2)
    it.host.add_base("2001:db8::2", interface="wwan0")
    it.host.run(0.9)
    assert len(it.bases()) == 1
    it.host.run(0.2)
    assert it.bases() == []


@pytest.mark.parametrize("uri", ["turn:192.0.2.1?transport=tcp", "turns:192.0.2.1:3478"])
def test_rfc8016_a_flow_that_breaks_is_opened_anew(uri: str) -> None:
    it, _ = roaming("wlan0", uri=uri)
    it.host.run(5)
    (flow,) = it.host.opened
    before = it.bases()
    it.host.break_flow(flow.flow_id)
    # The connection's round trip, that of the ticket, and the data's way.
    assert it.gap() == pytest.approx(5 * DELAY, abs=0.0011)
    assert it.bases() == before
    it.host.run(1)
    assert [event.rtt for event in it.host.of(RelayMoved) if isinstance(event, RelayMoved)] == [
        pytest.approx(4 * DELAY)
    ]
    assert (it.relay.allocations, len(it.host.opened)) == (1, 2)


def test_rfc8016_a_server_that_breaks_each_flow_is_not_followed_for_ever() -> None:
    it, _ = roaming("wlan0", uri="turn:192.0.2.1?transport=tcp")
    it.host.run(5)
    it.host.break_flow(it.host.opened[-1].flow_id)
    it.host.run(1)
    it.host.break_flow(it.host.opened[-1].flow_id)
    assert len(it.host.of(RelayLost)) == 1
    assert it.bases() == []


def test_rfc8016_a_flow_goes_on_from_another_interface() -> None:
    it, (lost, _) = roaming("wlan0", "wwan0", uri="turn:192.0.2.1?transport=tcp")
    it.host.remove_base(lost)
    it.host.run(1)
    assert [flow.interface for flow in it.host.opened] == ["wlan0", "wwan0", "wwan0"]
    assert it.send(b"on")
    assert it.relay.allocations == 2


# For how long


def test_rfc8016_an_allocation_waits_for_the_address_that_an_interface_is_given_next() -> None:
    it, (lost,) = roaming("wlan0")
    before = it.bases()
    it.host.remove_base(lost)
    assert not it.send(b"lost")
    it.host.run(2)
    assert it.bases() == before
    it.host.add_base("10.9.0.7", interface="wlan0", cost=10)
    assert it.gap() == pytest.approx(DELAY, abs=0.0011)
    assert (PEER, b"lost") not in it.server.relayed_data
    it.host.run(60)
    assert (it.bases(), it.relay.allocations) == (before, 1)
    assert it.server.counted()["ALLOCATE"] == 2
    assert it.host.of(RelayLost) == []
    # It is the interface's own again, and goes on as before.
    for number in range(3):
        it.host.run(1)
        it.host.remove_base(next(base for base in it.host.endpoint._bases.values() if not base.server))
        it.host.run(0.1)
        it.host.add_base(f"10.9.0.{number}", interface="wlan0", cost=10)
        assert it.gap() == pytest.approx(DELAY, abs=0.0011)
    assert (it.bases(), it.relay.allocations) == (before, 1)


def test_rfc8016_few_wait_at_once() -> None:
    it, bases = roaming("wlan0", "wwan0", "eth0", "eth1", "eth2", "eth3")
    assert len(it.bases()) == 6
    for base in bases[:-1]:
        it.host.remove_base(base)
        it.host.run(0.1)
    # Of the five that moved on to the last interface four are left, and its own.
    assert len(it.bases()) == 5
    it.host.remove_base(bases[-1])
    assert len(it.bases()) == 4
    it.host.add_base("10.9.0.7", interface="eth3")
    it.host.run(1)
    assert (len(it.bases()), it.host.of(RelayLost)) == (4, [])


def test_rfc8016_where_no_address_comes_it_is_given_up() -> None:
    it, (lost,) = roaming("wlan0")
    it.host.remove_base(lost)
    it.host.run(2.9)
    assert len(it.bases()) == 1
    it.host.run(0.2)
    assert it.bases() == []
    it.host.run(10)
    assert it.host.endpoint._relays is not None
    assert (it.host.endpoint._relays._links, it.host.endpoint._relays._closing) == ({}, [])
    it.host.add_base("10.9.0.7", interface="wlan0")
    it.host.run(1)
    assert len(it.bases()) == 1


def test_rfc8016_a_guest_goes_once_its_interface_is_back_and_nobody_uses_it() -> None:
    it, (lost, _) = roaming("wlan0", "wwan0")
    it.host.remove_base(lost)
    it.host.run(100)
    assert len(it.bases()) == 2  # its interface is away
    assert it.send(b"in use")
    it.host.add_base("10.0.0.9", interface="wlan0", cost=10)
    it.host.run(1)
    assert len(it.bases()) == 3
    for _ in range(20):
        assert it.send(b"in use")
        it.host.run(5)
    assert len(it.bases()) == 3
    it.host.run(26)
    assert [base.interface for base in it.bases()] == ["wwan0", "wlan0"]
    it.host.run(5)
    assert (it.relay.allocations, it.relay.deleted) == (2, 1)


def test_rfc8016_guests_go_with_the_last_session() -> None:
    it, (lost, _) = roaming("wlan0", "wwan0")
    it.host.remove_base(lost)
    it.host.run(1)
    it.host.release(it.session)
    it.host.run(40)
    assert (it.bases(), it.relay.allocations, it.relay.deleted) == ([], 0, 2)


def test_rfc8016_an_interface_that_flaps_fills_nothing() -> None:
    it, (lost, _) = roaming("wlan0", "wwan0")
    for number in range(50):
        it.host.remove_base(lost)
        it.host.run(0.3)
        lost = it.host.add_base(f"10.0.1.{number}", interface="wlan0", cost=10)
        it.host.run(0.7)
    relays = it.host.endpoint._relays
    assert relays is not None
    assert len(relays._moves.guests) <= 4
    assert it.relay.allocations <= 6
    assert len(it.bases()) <= 6
    it.host.run(60)
    assert it.relay.allocations == len(it.bases()) == 2
    assert (len(relays._links), relays._closing, len(relays._by_path), relays._by_flow) == (2, [], 2, {})


def test_rfc8016_interfaces_that_flap_in_turn_fill_nothing() -> None:
    """A guest that comes home finds another allocation there, and is a guest still."""
    it, bases = roaming("wlan0", "wwan0")
    for number in range(50):
        name, cost = (("wlan0", 10), ("wwan0", 900))[number % 2]
        it.host.remove_base(bases[number % 2])
        it.host.run(0.3)
        bases[number % 2] = it.host.add_base(f"10.0.1.{number}", interface=name, cost=cost)
        it.host.run(0.7)
    relays = it.host.endpoint._relays
    assert relays is not None
    assert len(it.bases()) <= 6
    it.host.run(60)
    assert len(it.bases()) == 2
    assert (len(relays._links), relays._closing, len(relays._by_path), relays._by_flow) == (2, [], 2, {})


def test_rfc8016_of_several_that_waited_for_their_interface_it_holds_one() -> None:
    it, (wlan, wwan) = roaming("wlan0", "wwan0")
    it.host.remove_base(wlan)
    it.host.run(1)
    wlan = it.host.add_base("10.0.1.1", interface="wlan0", cost=10)
    it.host.run(1)
    assert len(it.bases()) == 3  # two of them are wlan0's
    it.host.remove_base(wlan)
    it.host.remove_base(wwan)
    it.host.add_base("10.0.1.2", interface="wlan0", cost=10)
    it.host.add_base("10.0.1.3", interface="wwan0", cost=900)
    relays = it.host.endpoint._relays
    assert relays is not None
    assert relays._uplinks["wlan0"].held not in (None, *relays._moves.guests)
    it.host.run(60)
    assert sorted(base.interface for base in it.bases()) == ["wlan0", "wwan0"]
    assert (len(relays._links), len(relays._by_path), relays._by_flow) == (2, 2, {})


def test_rfc8016_a_guest_whose_host_goes_too_moves_on() -> None:
    it, (first, second, _) = roaming("wlan0", "eth0", "wwan0")
    it.host.remove_base(first)
    it.host.run(1)
    it.host.remove_base(second)
    assert it.gap() == pytest.approx(DELAY, abs=0.0011)
    it.host.run(1)
    assert {base.interface for base in it.bases()} == {"wwan0"}
    assert it.relay.allocations == len(it.bases()) == 3


def test_rfc8016_the_second_address_goes_before_the_server_answered() -> None:
    it, (first, second, _) = roaming("wlan0", "eth0", "wwan0")
    it.relay.udp = False
    it.host.remove_base(first)
    it.host.run(0.1)
    it.relay.udp = True
    it.host.remove_base(second)
    assert it.gap() == pytest.approx(DELAY, abs=0.0011)
    it.host.run(10)
    assert it.relay.allocations == len(it.bases()) == 3
    assert it.host.of(RelayLost) == []


# Without


@pytest.mark.parametrize("mobility", ["ignored", "forbidden"])
def test_rfc8016_without_a_ticket_another_allocation_is_asked_for(mobility: str) -> None:
    def make() -> Server:
        server = Server()
        server.mobility = mobility  # type: ignore[assignment]  # one of its words
        return server

    it, (lost,) = roaming("wlan0", make=make)
    it.host.add_base("10.0.0.2", interface="wlan0")
    it.host.remove_base(lost)
    assert it.bases() == []
    it.host.run(1)
    assert len(it.bases()) == 1
    requests = {path.local.ip: server.counted()["ALLOCATE"] for path, server in it.relay.clients.items()}  # type: ignore[attr-defined]
    # Who forbade it once is not asked again.
    assert requests == {"10.0.0.1": 3 if mobility == "forbidden" else 2, "10.0.0.2": 2}
    assert it.host.of(RelayMoved) == []


def test_rfc8016_a_ticket_that_is_refused_leads_to_another_allocation() -> None:
    it, (lost,) = roaming("wlan0")
    it.host.add_base("10.0.0.2", interface="wlan0")
    it.server.errors[Method.REFRESH] = deque([437])
    it.host.remove_base(lost)
    it.host.run(1)
    (event,) = it.host.of(RelayLost)
    assert isinstance(event, RelayLost)
    assert event.reason == "move_refused"
    assert (len(it.host.of(RelayGained)), len(it.bases())) == (2, 1)


def test_rfc8016_closing_gives_back_what_was_moved_from_where_it_is() -> None:
    it, (lost, _) = roaming("wlan0", "wwan0", uri="turn:192.0.2.1?transport=tcp")
    it.host.remove_base(lost)
    it.host.run(1)
    assert len(it.host._flows) == 2
    it.host.endpoint.close(now=it.host.now)
    it.host.drain()
    # A mobile allocation outlives its flow: that is closed after the server's word, and not before.
    it.host.run(1.5 * DELAY)
    assert (len(it.host._flows), it.relay.allocations, it.relay.deleted) == (2, 0, 2)
    it.host.run(DELAY)
    assert len(it.host._flows) == 0


# Servers that forget


def test_rfc8016_another_binding_of_the_nat_is_found_out_by_silence() -> None:
    it, _ = roaming("wlan0")
    it.converse()
    before = it.bases()
    it.server.is_here = False
    deaf = it.server
    deaf.is_deaf = True

    def hear(message: Message) -> list[bytes] | None:
        deaf.is_deaf = not deaf.is_here
        return None

    deaf.hook = hear
    it.host.endpoint.send_relayed(it.path, b"lost", now=it.host.now)
    it.host.run(0.6)
    assert it.host.of(RelayMoved) != []
    assert it.bases() == before


def test_rfc8016_a_server_that_was_started_again_is_found_out_by_silence() -> None:
    it, _ = roaming("wlan0")
    for _ in range(20):
        it.converse()  # there was silence before anybody answered
    forget(it.server)
    at = it.host.now
    it.host.endpoint.send_relayed(it.path, b"lost", now=it.host.now)
    it.host.drain()
    while len(it.host.of(RelayGained)) < 2 and it.host.now < at + 20:
        it.host.run(0.001)
    # Half a second, two round trips for the question, one for the ticket, two for another allocation.
    assert it.host.now - at == pytest.approx(0.5 + 5 * 2 * DELAY, abs=0.002)
    assert len(it.bases()) == 1


def test_a_relay_that_is_down_for_a_while_is_asked_again_soon() -> None:
    it, _ = roaming("wlan0", uri="turn:192.0.2.1?transport=tcp")
    it.host.run(60)
    del it.host.relays[NEAR]  # nobody listens there
    it.host.break_flow(it.host.opened[-1].flow_id)
    it.host.run(5)
    # The flow again, another allocation, and that again after half a second, one and two.
    assert len(it.host.opened) == 1 + 1 + 4
    it.host.relays[NEAR] = it.relay
    it.host.run(4)
    assert len(it.bases()) == 1
    assert it.host.of(RelayGained) != []


def test_a_relay_that_has_no_place_any_more_is_not_asked_soon() -> None:
    it, _ = roaming("wlan0")
    it.host.run(60)
    it.converse()
    forget(it.server)
    it.server.errors[Method.ALLOCATE] = deque([486])
    it.host.endpoint.send_relayed(it.path, b"lost", now=it.host.now)
    it.host.run(1)
    assert len(it.host.of(RelayLost)) == 1
    it.host.run(58)
    assert (len(it.host.of(RelayLost)), it.bases()) == (1, [])
    it.host.run(2)
    assert len(it.bases()) == 1


def test_rfc8016_a_guest_that_is_lost_is_not_replaced() -> None:
    it, (lost, _) = roaming("wlan0", "wwan0")
    it.host.remove_base(lost)
    it.host.run(1)
    forget(it.server)
    it.host.endpoint.send_relayed(it.path, b"lost", now=it.host.now)
    it.host.run(60)
    assert ([base.interface for base in it.bases()], it.relay.allocations) == (["wwan0"], 1)
    relays = it.host.endpoint._relays
    assert relays is not None
    assert (relays._moves.links, relays._closing) == ([], [])


def test_a_relay_that_loses_each_allocation_is_asked_less_and_less() -> None:
    it, _ = roaming("wlan0")
    it.host.run(60)
    for _ in range(12):
        for server in it.relay.clients.values():
            server.allocated_until = None
            server.permissions.clear()
        assert it.host.endpoint._relays is not None
        for link in list(it.host.endpoint._relays._links):
            link.allocation.confirm(now=it.host.now)
            it.host.endpoint._relays._touch(link, it.host.now)
        it.host.run(1)
    assert len(it.host.of(RelayLost)) == 6


def test_rfc8016_a_peer_that_is_far_away_is_no_silence() -> None:
    it, _ = roaming("wlan0")
    it.converse()
    it.session.close(now=it.host.now)
    before = it.server.counted()["CREATE_PERMISSION"]
    for _ in range(30):
        it.host.endpoint.send_relayed(it.path, b"question", now=it.host.now)
        it.host.run(2.5)
        it.answer()
        it.host.run(2.5)
    # Once before that is known; the others are of the checks before.
    assert it.server.counted()["CREATE_PERMISSION"] - before == 1


def test_rfc8016_who_is_not_heard_is_asked_for_less_and_less() -> None:
    it, _ = roaming("wlan0")
    it.converse()
    it.session.close(now=it.host.now)
    before = it.server.counted()["CREATE_PERMISSION"]
    for _ in range(300):
        it.host.endpoint.send_relayed(it.path, b"question", now=it.host.now)
        it.host.run(0.1)
    # After half a second, one, two, four and eight, and then each twelve.
    assert it.server.counted()["CREATE_PERMISSION"] - before == 6
