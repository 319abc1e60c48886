"""What ICE takes from descriptions and gives to them (checklist SDP-04 to SDP-09, HOST-15)."""

from __future__ import annotations

import re

import attrs
import pytest

from edgeice import sdp
from edgeice.addresses import Base, TransportAddress
from edgeice.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from edgeice.ice import IceConfig, Role
from edgeice.peer import Connection, ConnectionState, Endpoint, EndpointConfig
from edgeice.sansio import Action, Entropy, Transmit, drain
from tests.unit.peer.pair import CERTIFICATES, End, Pair

NOW = 10.0
CANDIDATE = "candidate:1 1 udp 2130706431 192.0.2.9 5000 typ host"
REMOTE = sdp.SessionDescription(
    ufrag="peer",
    pwd="p" * 22,
    fingerprints=(("sha-256", ":".join(["0A"] * 32)),),
    setup="actpass",
    session_id=1,
)


def session(config: IceConfig | None = None, *, seed: int = 1) -> Connection:
    endpoint = Endpoint(EndpointConfig(ice=config or IceConfig()), entropy=Entropy.seeded(seed))
    endpoint.base_added(Base(TransportAddress("192.0.2.1", 4000), "eth0"), now=NOW)
    return endpoint.connect(CERTIFICATES[0], Role.CONTROLLED, now=NOW)


def answered(offer: sdp.SessionDescription, config: IceConfig | None = None) -> tuple[Connection, str]:
    connection = session(config)
    return connection, connection.accept_offer(sdp.build(offer), now=NOW)


def answer_to(text: str, **changes: object) -> str:
    """An answer of the peer's to an offer."""
    described = attrs.evolve(REMOTE, **changes)  # type: ignore[arg-type]  # as the tests give them
    return sdp.build(sdp.answer(sdp.parse(text), described))


def pacing(connection: Connection) -> float:
    return connection._link.ice._slots.newest.pacing


def checked(connection: Connection) -> list[str]:
    """Where the first checks go."""
    remotes: list[str] = []

    def act(action: Action) -> None:
        assert isinstance(action, Transmit)
        remotes.append(str(action.path.remote))

    drain(connection, act, lambda _event: None)
    return remotes


def media_lines(text: str) -> list[str]:
    return text.split("\r\nm=")[1].split("\r\n")


# Credentials


def test_sdp_04_both_credentials_are_sent_within_their_bounds() -> None:
    for seed in range(20):
        offer = session(seed=seed).create_offer(now=NOW)
        [ufrag] = [line.partition(":")[2] for line in media_lines(offer) if line.startswith("a=ice-ufrag:")]
        [pwd] = [line.partition(":")[2] for line in media_lines(offer) if line.startswith("a=ice-pwd:")]
        assert re.fullmatch("[A-Za-z0-9+/]{4,32}", ufrag)
        assert re.fullmatch("[A-Za-z0-9+/]{22,256}", pwd)


def test_host_15_a_description_that_came_back_is_refused() -> None:
    connection = session()
    offer = connection.create_offer(now=NOW)
    own = sdp.parse(offer)
    with pytest.raises(DecodeError, match="came back"):
        connection.accept_answer(answer_to(offer, ufrag=own.ufrag, pwd=own.pwd), now=NOW)
    assert connection.awaits_answer
    connection.accept_answer(answer_to(offer), now=NOW)
    with pytest.raises(DecodeError, match="came back"):
        session().accept_offer(offer, now=NOW)  # of the same seed


# Options, pacing, lite


@pytest.mark.parametrize("renomination", [True, False])
def test_sdp_05_ice2_is_announced_in_offer_and_answer(*, renomination: bool) -> None:
    config = IceConfig(renomination=renomination)
    assert "ice2" in sdp.parse(session(config).create_offer(now=NOW)).options
    assert "ice2" in sdp.parse(answered(REMOTE, config)[1]).options


@pytest.mark.parametrize(
    ("ours", "theirs", "used"),
    [(0.020, 50, 0.050), (0.020, 5, 0.020), (0.100, 50, 0.100), (0.020, None, 0.050), (0.020, 9_999_999_999, 1.0)],
)
def test_sdp_05_the_larger_pacing_wins(ours: float, theirs: int | None, used: float) -> None:
    connection, answer = answered(attrs.evolve(REMOTE, pacing=theirs), IceConfig(pacing=ours))
    assert sdp.parse(answer).pacing == round(ours * 1000)  # what this side wants, whatever the peer said
    assert pacing(connection) == used


def test_sdp_07_a_lite_peer_is_controlled() -> None:
    connection, answer = answered(attrs.evolve(REMOTE, lite=True))
    assert connection._link.ice.role is Role.CONTROLLING
    assert "ice-lite" not in answer


def test_sdp_07_lite_is_written_at_session_level() -> None:
    text = sdp.build(attrs.evolve(REMOTE, lite=True))
    assert "a=ice-lite" in text.partition("\r\nm=")[0].split("\r\n")


# Default destinations, mismatch, remote candidates


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("c=IN IP4 0.0.0.0", "c=IN IP4 203.0.113.5"),
        ("m=application 9 ", "m=application 5001 "),
        ("c=IN IP4 0.0.0.0", "c=IN IP6 ::"),
    ],
    ids=["as it is", "another address", "another port", "IPv6"],
)
def test_sdp_07_a_default_destination_that_is_no_candidate_is_no_mismatch(old: str, new: str) -> None:
    text = sdp.build(attrs.evolve(REMOTE, candidates=(CANDIDATE,))).replace(old, new, 1)
    connection = session()
    answer = connection.accept_offer(text, now=NOW)
    assert "ice-mismatch" not in answer
    assert "m=application 9 " in answer
    assert "c=IN IP4 0.0.0.0" in answer
    assert checked(connection) == ["192.0.2.9:5000"]


def test_sdp_07_an_answer_that_refuses_ice_is_refused_and_a_better_one_taken() -> None:
    connection = session()
    offer = connection.create_offer(now=NOW)
    good = answer_to(offer)
    with pytest.raises(DecodeError, match="ice-mismatch"):
        connection.accept_answer(good.replace("a=setup", "a=ice-mismatch\r\na=setup"), now=NOW)
    connection.accept_answer(good, now=NOW)
    assert not connection.awaits_answer


def test_sdp_06_remote_candidates_are_never_sent_and_change_nothing() -> None:
    pair = Pair()
    for end in pair.ends:
        assert end.connection._link.ice.send_path is not None
    offer = pair.a.connection.restart(now=pair.now)
    answer = pair.b.connection.accept_offer(offer, now=pair.now)
    assert "remote-candidates" not in offer + answer
    told = sdp.build(REMOTE).replace("a=setup", "a=remote-candidates:1 192.0.2.1 4000\r\na=setup")
    assert sdp.parse(told) == REMOTE


def test_sdp_06_no_offer_is_made_after_completion_but_one_that_restarts() -> None:
    pair = Pair()
    for end in pair.ends:
        with pytest.raises(LocalProtocolError):
            end.connection.create_offer(now=pair.now)


def test_sdp_01_sdp_03_lines_that_cannot_be_used_cost_only_themselves() -> None:
    odd = (
        "candidate:1 1 tcp 1518280447 192.0.2.9 9 typ host tcptype active",
        "candidate:1 1 udp 1 host.example 5000 typ host",
        "candidate:1 0 udp 1 192.0.2.9 5000 typ host",
        "candidate:nonsense",
    )
    connection, _ = answered(attrs.evolve(REMOTE, candidates=(*odd, CANDIDATE, *odd)))
    assert checked(connection) == ["192.0.2.9:5000"]
    reasons = ("candidate_transport", "candidate_name", "candidate_range", "candidate_syntax")
    assert connection.drop_counts() == {f"link.{reason}": 2 for reason in reasons}


# Restarts


def described(end: End) -> sdp.SessionDescription:
    """The peer's description as `end` has it."""
    remote = end.connection._negotiation.remote
    assert remote is not None
    return remote


def as_offer(description: sdp.SessionDescription, **changes: object) -> str:
    changes = {"setup": "actpass", **changes}
    return sdp.build(attrs.evolve(description, **changes))  # type: ignore[arg-type]  # as the tests give them


def test_sdp_08_the_answer_to_a_restart_changes_both_credentials() -> None:
    pair = Pair()
    before = described(pair.a)
    offer = pair.a.connection.restart(now=pair.now)
    answer = sdp.parse(pair.b.connection.accept_offer(offer, now=pair.now))
    assert answer.ufrag != before.ufrag
    assert answer.pwd != before.pwd


def test_sdp_08_an_offer_that_does_not_restart_is_answered_with_the_present_credentials() -> None:
    pair = Pair()
    before = described(pair.a)
    answer = sdp.parse(pair.b.connection.accept_offer(as_offer(described(pair.b)), now=pair.now))
    assert (answer.ufrag, answer.pwd) == (before.ufrag, before.pwd)
    assert pair.b.connection._link.ice.generation == 0


@pytest.mark.parametrize("changes", [{"ufrag": "other"}, {"pwd": "q" * 22}])
def test_sdp_08_half_a_restart_is_refused_and_the_session_goes_on(changes: dict[str, object]) -> None:
    pair = Pair()
    with pytest.raises(DecodeError, match="half-restart"):
        pair.b.connection.accept_offer(as_offer(described(pair.b), **changes), now=pair.now)
    assert pair.b.connection._link.ice.generation == 0
    pair.send(pair.a, b"still there")
    pair.run(1.0)
    assert pair.b.messages == [b"still there"]


def test_sdp_08_an_answer_that_does_not_restart_is_refused_and_the_session_goes_on() -> None:
    pair = Pair()
    answer = sdp.build(attrs.evolve(described(pair.a), setup="active"))
    pair.a.connection.restart(now=pair.now)
    with pytest.raises(RemoteProtocolError, match="does not restart"):
        pair.a.connection.accept_answer(answer, now=pair.now)
    assert pair.a.connection.awaits_answer
    pair.a.connection.rollback(now=pair.now)
    pair.send(pair.b, b"still there")
    pair.run(60.0)
    assert pair.a.messages == [b"still there"]
    assert pair.a.connection.state is ConnectionState.CONNECTED


def test_sdp_08_options_pacing_and_lite_change_with_a_restart_only() -> None:
    pair = Pair()
    connection, ice = pair.b.connection, pair.b.connection._link.ice
    before = pacing(connection)
    changes: dict[str, object] = {"pacing": 500, "lite": True, "options": ("trickle",)}
    connection.accept_offer(as_offer(described(pair.b), **changes), now=pair.now)
    assert (pacing(connection), ice.role) == (before, Role.CONTROLLED)
    connection.accept_offer(as_offer(described(pair.b), **changes, ufrag="next", pwd="n" * 22), now=pair.now)
    assert (pacing(connection), ice.role) == (0.5, Role.CONTROLLING)


def test_an_offer_that_turns_dtls_round_begins_no_restart() -> None:
    pair = Pair()
    role = "active" if pair.b.connection._negotiation.role == "client" else "passive"
    text = as_offer(described(pair.b), ufrag="next", pwd="n" * 22, setup=role)
    with pytest.raises(DecodeError, match="DTLS role"):
        pair.b.connection.accept_offer(text, now=pair.now)
    assert pair.b.connection._link.ice.generation == 0


# End of candidates


@pytest.mark.parametrize("session_level", [True, False])
def test_sdp_09_no_candidate_counts_after_the_end_that_a_description_tells(*, session_level: bool) -> None:
    text = sdp.build(attrs.evolve(REMOTE, candidates=(CANDIDATE,)))
    old = "t=0 0\r\n" if session_level else "a=setup"
    new = "t=0 0\r\na=end-of-candidates\r\n" if session_level else "a=end-of-candidates\r\na=setup"
    connection = session()
    connection.accept_offer(text.replace(old, new, 1), now=NOW)
    connection.add_remote_candidate(CANDIDATE.replace("5000", "5001"), "peer", now=NOW)
    assert connection.drop_counts() == {"ice.candidate_late": 1}


def test_sdp_09_this_side_tells_the_end_in_its_section() -> None:
    endpoint = Endpoint(EndpointConfig(), entropy=Entropy.seeded(1))
    endpoint.base_added(Base(TransportAddress("192.0.2.1", 4000), "eth0"), now=NOW)
    offer = endpoint.connect(CERTIFICATES[0], Role.CONTROLLING, now=NOW).create_offer(now=NOW)
    assert media_lines(offer)[-2:] == ["a=end-of-candidates", ""]
