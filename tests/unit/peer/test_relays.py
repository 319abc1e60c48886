"""Relays as bases of the endpoint: which server, when, for whom, and what travels through."""

from __future__ import annotations

from collections import deque

import attrs
import pytest

from edgeice.addresses import Path, TransportAddress
from edgeice.errors import ConfigError
from edgeice.ice import RemoteParameters
from edgeice.ice.credentials import generate_credentials
from edgeice.peer import RelayFailed, RelayGained, RelayLost, TurnServer
from edgeice.sansio import Entropy
from edgeice.stun import Attribute, Message, MessageClass, Method, decode, encode
from tests.support.relayed_endpoint import CREDENTIALS, Relay, RelayedEndpoint
from tests.support.turn_server import TurnServer as Server

NEAR, FAR = TransportAddress("192.0.2.1", 3478), TransportAddress("192.0.2.2", 3478)
PEER = TransportAddress("198.51.100.3", 7000)


def near(**changes: object) -> Relay:
    return attrs.evolve(Relay(NEAR, 0.005), **changes)  # type: ignore[arg-type]  # fields of Relay


def far(**changes: object) -> Relay:
    return attrs.evolve(Relay(FAR, 0.030), **changes)  # type: ignore[arg-type]  # as above


def methods(relay: Relay) -> dict[str, int]:
    return {name: number for server in relay.clients.values() for name, number in server.counted().items()}


# When


def test_an_endpoint_without_sessions_asks_no_relay() -> None:
    host = RelayedEndpoint(near())
    host.add_base()
    host.run(60)
    assert host.relays[NEAR].clients == {}
    assert host.endpoint.next_timeout() is None or host.endpoint.next_timeout() > host.now  # type: ignore[operator]


def test_turn_04_sessions_share_one_allocation_which_goes_after_the_last() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    host.add_base()
    first = host.connect()
    host.run(1)
    second = host.connect()
    host.run(1)
    (line,) = host.relayed(first)
    assert f" {relay.address.ip} 50000 typ relay raddr 203.0.113.7 rport 40000" in line
    assert host.relayed(second) != []
    assert (relay.allocations, methods(relay)) == (1, {"ALLOCATE": 2})
    host.release(first)
    host.run(1)
    assert (relay.allocations, relay.deleted) == (1, 0)
    host.release(second)
    host.run(29)
    assert (relay.allocations, relay.deleted) == (1, 0)
    host.run(2)
    assert (relay.allocations, relay.deleted) == (0, 1)
    assert not any(base.server for base in host.endpoint._bases.values())


def test_the_next_session_of_a_burst_has_its_relay_at_once() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    host.add_base()
    host.release(host.connect())
    host.run(20)
    session = host.connect()
    assert len(host.relayed(session)) == 1
    host.run(60)
    assert (relay.allocations, relay.deleted) == (1, 0)


def test_turn_04_the_end_of_the_host_gives_back_what_it_holds() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    host.add_base()
    host.connect()
    host.run(1)
    host.endpoint.close(now=host.now)
    host.drain()
    host.run(0.1)
    assert (relay.allocations, relay.deleted) == (0, 1)


def test_a_session_waits_until_its_place_is_given_back() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    host.add_base()
    for number in range(3):
        session = host.connect()
        host.run(1)
        assert len(host.relayed(session)) == 1
        host.release(session)
        host.run(30)  # the server does not know yet that this was the end
        assert relay.deleted == number
    host.run(1)
    # None of them met what was there before it (437).
    assert (relay.deleted, host.of(RelayFailed)) == (3, [])


@pytest.mark.parametrize(("times", "seconds"), [(2, 5), (3, 125)])
def test_turn_11_a_server_that_still_has_what_was_deleted_is_asked_again(times: int, seconds: float) -> None:
    relay = near()
    relay.make = lambda: _with_errors(Method.ALLOCATE, [437] * times)
    host = RelayedEndpoint(relay)
    host.add_base()
    host.connect()
    host.run(seconds - 2)
    assert relay.allocations == 0
    host.run(2)
    assert relay.allocations == 1
    assert [event.code for event in host.of(RelayFailed) if isinstance(event, RelayFailed)] == [437] * times


def _with_errors(method: Method, codes: list[int]) -> Server:
    server = Server()
    server.errors = {method: deque(codes)}
    return server


def test_an_allocation_is_refreshed_as_long_as_a_session_lasts() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    host.add_base()
    session = host.connect()
    host.run(3600)
    assert relay.allocations == 1
    assert len(host.relayed(session)) == 1
    assert methods(relay)["REFRESH"] == 3600 // 540


# Which


@pytest.mark.parametrize("order", ["near first", "far first"])
def test_turn_33_the_nearest_server_wins_and_no_other_allocates(order: str) -> None:
    relays = [near(), far()] if order == "near first" else [far(), near()]
    host = RelayedEndpoint(*relays)
    host.add_base()
    session = host.connect()
    host.run(2)
    (line,) = host.relayed(session)
    assert NEAR.ip in line
    assert (host.relays[NEAR].allocations, host.relays[FAR].allocations) == (1, 0)
    assert methods(host.relays[FAR]) == {"ALLOCATE": 1}
    (gained,) = host.of(RelayGained)
    assert isinstance(gained, RelayGained)
    assert gained.rtt == pytest.approx(0.010)


@pytest.mark.parametrize("dead", ["silent", "unknown name", "no address"])
def test_ice_04_a_dead_relay_delays_nobody(dead: str) -> None:
    silent = Relay(TransportAddress("192.0.2.9", 3478), udp=False)
    uris = {"silent": "turn:192.0.2.9", "unknown name": "turn:gone.example", "no address": "turn:[2001:db8::1]"}
    host = RelayedEndpoint(silent, far(), uris=[uris[dead], "turn:192.0.2.2"])
    host.add_base()
    session = host.connect()
    # Two round trips of 60 ms; a rival that may be nearer gets two of its own.
    host.run(0.060 * 2 + 0.120 + 0.030)
    assert len(host.relayed(session)) == 1


def test_turn_32_without_udp_tcp_follows_after_half_a_second_and_tls_after_another() -> None:
    blocked = near(udp=False)
    tls = Relay(TransportAddress("192.0.2.5", 5349))
    host = RelayedEndpoint(
        blocked,
        tls,
        uris=["turns:relay.example", "turn:192.0.2.1?transport=tcp", "turn:192.0.2.1"],
        names={"relay.example": ["192.0.2.5"]},
    )
    host.add_base()
    session = host.connect()
    host.run(0.499)
    assert host.opened == []
    host.run(0.1)
    assert [(flow.remote, flow.interface, flow.tls_name) for flow in host.opened] == [(NEAR, "eth0", None)]
    assert len(host.relayed(session)) == 1
    host.run(5)
    assert len(host.opened) == 1


def test_turn_32_tls_names_the_host_that_the_certificate_must_have() -> None:
    tls = Relay(TransportAddress("192.0.2.5", 5349))
    host = RelayedEndpoint(tls, uris=["turns:relay.example"], names={"relay.example": ["192.0.2.5"]})
    host.add_base()
    session = host.connect()
    host.run(0.2)  # at once, since there is nothing else
    (flow,) = host.opened
    assert (flow.remote, flow.tls_name) == (tls.address, "relay.example")
    assert len(host.relayed(session)) == 1
    host.release(session)
    host.run(31)
    assert (tls.allocations, tls.deleted) == (0, 1)


def test_a_flow_that_cannot_be_opened_is_told_and_the_next_is_tried() -> None:
    host = RelayedEndpoint(far(), uris=["turn:192.0.2.77?transport=tcp", "turn:192.0.2.2?transport=tcp"])
    host.add_base()
    session = host.connect()
    host.run(1)
    assert len(host.relayed(session)) == 1
    (failed,) = host.of(RelayFailed)
    assert isinstance(failed, RelayFailed)
    assert (failed.uri, failed.reason, failed.code) == (
        "turn:192.0.2.77?transport=tcp",
        "Connection refused",
        None,
    )


def test_each_uplink_has_a_relay_of_its_own() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    host.add_base("10.0.0.1", interface="eth0")
    host.add_base("10.1.0.1", interface="wlan0")
    host.add_base("10.1.0.2", interface="wlan0")
    session = host.connect()
    host.run(1)
    assert len(host.relayed(session)) == 2
    assert {path.local.ip for path in relay.clients if isinstance(path, Path)} == {"10.0.0.1", "10.1.0.1"}
    host.add_base("10.2.0.1", interface="wwan0")
    host.run(1)
    assert relay.allocations == 3


# What goes wrong


def test_a_wrong_password_is_told_and_the_session_goes_on_with_what_works() -> None:
    strict = near(make=lambda: _with_user("somebody else"))
    host = RelayedEndpoint(strict, far())
    host.add_base()
    session = host.connect()
    host.run(2)
    (line,) = host.relayed(session)
    assert FAR.ip in line
    (failed,) = host.of(RelayFailed)
    assert isinstance(failed, RelayFailed)
    assert (failed.reason, failed.code) == ("unauthorized", 401)
    # STUN-41: the same credentials are not tried a second time.
    assert methods(strict) == {"ALLOCATE": 2}


def _with_user(name: str) -> Server:
    server = Server()
    server.users = {name: "x"}
    return server


def test_turn_37_new_credentials_are_for_the_next_allocation_and_leave_what_stands() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    host.add_base()
    session = host.connect()
    host.run(1)
    new = TurnServer("turn:192.0.2.1", "later", "other")
    host.endpoint.set_turn_servers((new,), now=host.now)
    host.drain()
    host.run(600)
    (server,) = relay.clients.values()
    assert {message.get(Attribute.USERNAME) for message in server.requests if message.has_integrity} == {
        CREDENTIALS.username
    }
    host.release(session)
    host.run(31)
    server.users["later"] = "other"
    host.connect()
    host.run(1)
    assert relay.allocations == 1
    assert server.requests[-1].get(Attribute.USERNAME) == "later"


def test_new_credentials_are_tried_at_once_where_the_old_ones_failed() -> None:
    relay = near(make=lambda: _with_user("later"))
    host = RelayedEndpoint(relay)
    host.add_base()
    host.connect()
    host.run(100)
    assert methods(relay) == {"ALLOCATE": 2}
    host.endpoint.set_turn_servers(host.servers("turn:192.0.2.1", username="later", password="x"), now=host.now)
    host.drain()
    host.run(1)
    assert relay.allocations == 1


def test_nothing_is_written_to_a_flow_after_its_end() -> None:
    host = RelayedEndpoint(near(), uris=["turn:192.0.2.1?transport=tcp"])
    base = host.add_base()
    host.connect()
    host.run(1)
    host.remove_base(base)  # the test's network knows no flow after CloseFlow
    host.run(60)
    assert [flow.remote for flow in host.opened] == [NEAR]


@pytest.mark.parametrize("seconds", [0.0, 0.0025, 0.007, 0.011, 0.3])
def test_servers_that_are_replaced_in_the_middle_of_a_race_are_let_go(seconds: float) -> None:
    old, new = [near(), near(address=TransportAddress("192.0.2.3", 3478))], far()
    host = RelayedEndpoint(*old, new, uris=["turn:192.0.2.1?transport=tcp", "turn:192.0.2.1", "turn:192.0.2.3"])
    for relay in old:
        relay.udp = seconds < 0.3
    host.add_base()
    session = host.connect()
    host.run(seconds)
    host.endpoint.set_turn_servers(host.servers("turn:192.0.2.2"), now=host.now)
    host.drain()
    host.run(5)
    (line,) = host.relayed(session)
    assert FAR.ip in line
    assert [relay.allocations for relay in old] == [0, 0]


def test_where_no_relay_answers_all_are_asked_again_later_and_later() -> None:
    relay = near(udp=False)
    host = RelayedEndpoint(relay, uris=["turn:relay.example"], names={"relay.example": ["192.0.2.1"]})
    host.add_base()
    session = host.connect()
    host.run(40)
    assert session.local_candidates(now=host.now)[1]  # what there is has been told
    assert [event.reason for event in host.of(RelayFailed) if isinstance(event, RelayFailed)] == ["timeout"]
    relay.udp = True
    host.run(59)
    assert relay.allocations == 0
    host.run(2)
    assert relay.allocations == 1


def test_turn_05_an_allocation_that_is_lost_takes_its_candidates_along_and_another_is_asked_for() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    host.add_base()
    session = host.connect()
    host.run(60)
    (server,) = relay.clients.values()
    server.allocated_until = None
    host.run(500)  # the next refresh is answered with 437
    (lost,) = host.of(RelayLost)
    assert isinstance(lost, RelayLost)
    assert lost.reason == "mismatch"
    assert relay.allocations == 1
    assert len(host.of(RelayGained)) == 2
    relayed = [base.address for base in host.endpoint._bases.values() if base.server]
    assert len(relayed) == 1
    assert session.state.value == "new"


def test_a_server_that_forgot_is_found_out_by_its_silence() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    host.add_base()
    server, _ = checking(host, relay)
    # It begins anew, and knows nothing of what was; what is sent through it is not answered.
    server.allocated_until = None
    server.permissions.clear()
    server.hook = lambda message: None if message.has_integrity else []
    server.relay = lambda *_: None  # type: ignore[method-assign]  # it drops what it has no allocation for
    host.run(15)
    (lost,) = host.of(RelayLost)
    assert isinstance(lost, RelayLost)
    assert lost.reason == "mismatch"


def test_a_server_that_answers_is_not_asked_whether_it_is_there() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    base = host.add_base()
    server, path = checking(host, relay)
    for _ in range(20):
        host.endpoint.send_relayed(path, b"data", now=host.now)
        host.drain()
        host.run(4)
        host.arrive(Path(base.address, NEAR), server.indication(PEER, b"data"))
        host.run(1)
    assert "REFRESH" not in methods(relay)


def test_an_address_that_goes_takes_its_relay_along_and_another_of_the_interface_takes_over() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    first, _ = host.add_base("10.0.0.1"), host.add_base("10.0.0.2")
    host.connect()
    host.run(1)
    host.remove_base(first)
    assert not any(base.server for base in host.endpoint._bases.values())
    host.run(1)
    assert [path.local.ip for path in relay.clients if isinstance(path, Path)] == ["10.0.0.1", "10.0.0.2"]
    assert any(base.server for base in host.endpoint._bases.values())


def redirecting(to: TransportAddress, *, signed: bool) -> Server:
    server = Server()

    def hook(message: Message) -> list[bytes] | None:
        if message.method != Method.ALLOCATE or (signed and not message.has_integrity):
            return None
        error = server.error if signed else server.unsigned_error
        return [error(message, 300, (Attribute.ALTERNATE_SERVER, to))]

    server.hook = hook
    return server


def test_turn_34_a_signed_redirect_is_followed_before_other_servers() -> None:
    host = RelayedEndpoint(
        near(make=lambda: redirecting(TransportAddress("192.0.2.7", 3478), signed=True)),
        Relay(TransportAddress("192.0.2.7", 3478)),
        uris=["turn:192.0.2.1"],
    )
    host.add_base()
    session = host.connect()
    host.run(1)
    (line,) = host.relayed(session)
    assert "192.0.2.7" in line


def test_stun_50_a_redirect_that_leads_in_a_circle_stops() -> None:
    host = RelayedEndpoint(
        near(make=lambda: redirecting(FAR, signed=True)),
        far(make=lambda: redirecting(NEAR, signed=True)),
        uris=["turn:192.0.2.1"],
    )
    host.add_base()
    host.connect()
    host.run(250)
    assert [methods(relay) for relay in host.relays.values()] == [{"ALLOCATE": 2}] * 2
    reasons = [event.reason for event in host.of(RelayFailed) if isinstance(event, RelayFailed)]
    assert reasons == ["redirect_loop"]


def test_host_08_a_redirect_that_nobody_signed_is_not_followed() -> None:
    elsewhere = Relay(TransportAddress("192.0.2.7", 3478))
    host = RelayedEndpoint(
        near(make=lambda: redirecting(elsewhere.address, signed=False)), elsewhere, uris=["turn:192.0.2.1"]
    )
    host.add_base()
    host.connect()
    host.run(100)
    assert elsewhere.clients == {}


# What travels through


def checking(host: RelayedEndpoint, relay: Relay) -> tuple[Server, Path]:
    """A session that checks a peer through its relay; gives the server and the path."""
    session = host.connect()
    host.run(1)
    credentials = generate_credentials(Entropy.seeded(9))
    session.set_remote(RemoteParameters(credentials=credentials), now=host.now)
    session.add_remote_candidate(
        f"candidate:1 1 udp 2130706431 {PEER.ip} {PEER.port} typ host", credentials.ufrag, now=host.now
    )
    host.run(1)
    (server,) = relay.clients.values()
    return server, Path(server.relayed[0], PEER)


def test_turn_21_a_check_waits_for_its_permission() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    host.add_base()
    server, path = checking(host, relay)
    # The server asserts that what it relays has a permission.
    assert [peer for peer, _ in server.relayed_data] == [PEER] * len(server.relayed_data)
    check = decode(server.relayed_data[0][1])
    assert check.get(Attribute.USERNAME)
    assert methods(relay)["CREATE_PERMISSION"] == 1
    # And the same peer is checked from the host's own address.
    assert {sent.path.remote for sent in host.sent} == {PEER}
    assert path.local not in {sent.path.local for sent in host.sent}


def test_turn_31_a_channel_is_bound_once_its_pair_is_selected_and_not_before() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    host.add_base()
    server, path = checking(host, relay)
    host.run(3)
    assert server.relayed_data  # checks went through
    assert "CHANNEL_BIND" not in methods(relay)
    (session,) = host.sessions
    routes = host.endpoint._routes
    routes.claim(session.session_id, path)
    routes.select(session.session_id, path)
    for _ in range(20):
        assert host.endpoint.send_relayed(path, b"data", now=host.now)
        host.run(0.1)
    assert methods(relay)["CHANNEL_BIND"] == 1


def test_ice_39_what_comes_through_the_relay_comes_from_the_peer_that_the_server_names() -> None:
    relay = near()
    host = RelayedEndpoint(relay)
    base = host.add_base()
    server, _ = checking(host, relay)
    heard: list[tuple[bytes, Path]] = []
    (session,) = host.sessions
    receive = session.receive_datagram

    def listen(data: bytes, path: Path, *, now: float) -> None:
        heard.append((data, path))
        receive(data, path, now=now)

    session.receive_datagram = listen  # type: ignore[method-assign]  # to see what passes
    username = f"{session.credentials.ufrag}:theirs"
    check = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), [(Attribute.USERNAME, username)])
    host.arrive(Path(base.address, NEAR), server.indication(PEER, check))
    assert heard == [(check, Path(server.relayed[0], PEER))]
    # What the server sends of its own is no session's.
    host.arrive(Path(base.address, NEAR), b"\x16 a DTLS record")
    assert len(heard) == 1


def test_a_peer_that_the_relay_may_not_reach_is_a_hint_and_no_more() -> None:
    def make() -> Server:
        server = Server()
        server.hook = lambda message: (
            [server.error(message, 403)]
            if message.method == Method.CREATE_PERMISSION and message.has_integrity
            else None
        )
        return server

    relay = near(make=make)
    host = RelayedEndpoint(relay)
    host.add_base()
    server, _ = checking(host, relay)
    assert server.relayed_data == []
    assert relay.allocations == 1
    assert host.sessions[0].state.value == "checking"


# What is configured


@pytest.mark.parametrize(
    "uri",
    ["stun:relay.example", "turn://relay.example", "turns:relay.example?transport=udp", "turn:"],
)
def test_a_uri_that_names_no_relay_is_refused_at_once(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^turn: "):
        TurnServer(uri, "user", "password")


def test_the_password_is_not_shown() -> None:
    assert "secret-word" not in repr(TurnServer("turn:relay.example", "user", "secret-word"))
