"""A device that does not know a session says so to who wants to restart it, and to nobody else."""

from __future__ import annotations

import pytest

from edgeice.signaling import ByeReceived, DeviceSignaling, OfferRejected, Reject, SessionId, SignalingSession
from edgeice.signaling.messages import Answer, Offer
from tests.unit.signaling.kit import (
    ALICE,
    ALICE_KEY,
    DEVICE,
    DEVICE_KEY,
    FINGERPRINT_B,
    MALLORY_KEY,
    SID,
    WALL,
    actions,
    body_of,
    digest,
    established_pair,
    events,
    first_offer,
    make_device,
    make_sdp,
    message,
    read_claims,
    sent,
)

RESTARTED = "the device has restarted, or ended the session long ago"
NO_SESSION = Reject("no-session", RESTARTED)


def restart(*, iat: int = WALL, seq: int = 2) -> bytes:
    """Alice's restart of a session that the device had before."""
    return message(Offer(make_sdp("AliceR1")), gen=1, seq=seq, iat=iat)


def give(device: DeviceSignaling, jws: bytes, *, now: float = 0.0, wall: int | None = WALL) -> None:
    device.receive(ALICE, jws, now=now, wall=wall)


# The device


def test_a_restart_of_an_unknown_session_is_answered() -> None:
    device = make_device()
    offer = restart()
    give(device, offer)
    (reply,) = sent(device)
    assert (reply.session, reply.road) == (SessionId(ALICE, ALICE_KEY.public.kid, SID), "mqtt")
    claims = read_claims(reply.jws)
    assert {name: claims[name] for name in ("t", "gen", "seq", "re")} == {
        "t": "reject",
        "gen": 1,
        "seq": 0,
        "re": digest(offer, ALICE_KEY),
    }
    assert body_of(reply.jws) == {"code": "no-session", "reason": RESTARTED}
    assert (events(device), device.sessions, device.drops.snapshot()) == ([], (), {"no-session": 1})


def test_a_session_that_is_over_is_said_to_be() -> None:
    device = make_device()
    give(device, first_offer(device))
    session = device.session(SessionId(ALICE, ALICE_KEY.public.kid, SID))
    assert session is not None
    session.bye("idle", wall=WALL)
    actions(device)
    give(device, restart())
    (reply,) = sent(device)
    assert body_of(reply.jws) == {"code": "no-session", "reason": "the session is over"}
    assert device.drops.total == 0


def test_a_session_that_goes_on_is_not_disowned() -> None:
    device = make_device()
    give(device, first_offer(device))
    session = device.session(SessionId(ALICE, ALICE_KEY.public.kid, SID))
    assert session is not None
    session.answer(0, make_sdp("DeviceU", setup="active", fingerprint=FINGERPRINT_B), wall=WALL)
    actions(device)
    give(device, restart())
    give(device, restart(seq=3))
    assert [action for action in sent(device) if read_claims(action.jws)["t"] == "reject"] == []


def test_once_a_second_and_key() -> None:
    device = make_device()
    for now in (0.0, 0.5, 0.9, 1.0):
        give(device, restart(), now=now)
    assert len(sent(device)) == 2
    assert device.drops.snapshot() == {"no-session": 2, "reject-rate": 2}


@pytest.mark.parametrize(("wall", "answered"), [(WALL + 121, False), (None, True)])
def test_an_old_restart_is_not_answered_by_a_device_that_knows_the_time(wall: int | None, answered: bool) -> None:
    device = make_device()
    give(device, restart(), wall=wall)
    assert bool(sent(device)) is answered
    assert device.drops.snapshot() == ({"no-session": 1} if answered else {"expired": 1})


def test_strangers_hear_nothing() -> None:
    device = make_device()
    give(device, message(Offer(make_sdp("AliceR1")), gen=1, seq=2, key=MALLORY_KEY))
    assert (actions(device), device.drops.snapshot()) == ([], {"unknown-key": 1})


# The operator


def reply_to(offer: bytes, key: str = "device", *, gen: int = 1, body: Reject | Answer = NO_SESSION) -> bytes:
    """What a device that was restarted answers, in the name of its key or of another one."""
    return message(
        body,
        key={"device": DEVICE_KEY, "mallory": MALLORY_KEY}[key],
        iss=DEVICE,
        aud=ALICE,
        gen=gen,
        re=digest(offer, ALICE_KEY),
    )


def restarting(operator: SignalingSession, ufrag: str = "AliceR1") -> bytes:
    """Let the operator restart; gives its offer."""
    operator.offer(make_sdp(ufrag), now=0.0, wall=WALL)
    return sent(operator)[-1].jws


def test_a_device_that_has_restarted_ends_the_session_at_once() -> None:
    operator, _device = established_pair()
    offer = restarting(operator)
    operator.receive_jws(reply_to(offer), "mqtt", now=0.0, wall=WALL)
    assert events(operator) == [ByeReceived(operator.id, "no-session", RESTARTED)]
    assert (operator.ended, operator.next_timeout(), actions(operator), operator.drops.total) == (True, None, [], 0)


def test_what_somebody_else_signed_ends_nothing() -> None:
    operator, _device = established_pair()
    offer = restarting(operator)
    operator.receive_jws(reply_to(offer, "mallory"), "mqtt", now=0.0, wall=WALL)
    assert (events(operator), operator.ended, operator.drops.snapshot()) == ([], False, {"jws-key": 1})


def test_what_was_said_of_another_offer_ends_nothing() -> None:
    operator, device = established_pair()
    first = restarting(operator)
    device.receive_jws(first, "mqtt", now=0.0, wall=WALL)
    device.answer(1, make_sdp("DevRst1", setup="active", fingerprint=FINGERPRINT_B), wall=WALL)
    operator.receive_jws(sent(device)[-1].jws, "mqtt", now=0.0, wall=WALL)
    events(operator)
    # Nothing is asked, so nothing can be the answer.
    operator.receive_jws(reply_to(first), "mqtt", now=0.0, wall=WALL)
    second = restarting(operator, "AliceR2")
    # Somebody lets a device that was restarted judge an old offer, and brings its word for the new one.
    for gen in (1, 2):
        operator.receive_jws(reply_to(first, gen=gen), "mqtt", now=0.0, wall=WALL)
    operator.receive_jws(reply_to(second, gen=1), "mqtt", now=0.0, wall=WALL)
    assert (events(operator), operator.ended) == ([], False)
    assert operator.drops.snapshot() == {"nothing-pending": 1, "re-mismatch": 3}


def test_other_rejects_with_a_used_seq_are_still_dropped() -> None:
    operator, _device = established_pair()
    offer = restarting(operator)
    operator.receive_jws(reply_to(offer, body=Reject("unsupported")), "mqtt", now=0.0, wall=WALL)
    assert (events(operator), operator.ended, operator.drops.snapshot()) == ([], False, {"duplicate": 1})


def test_an_operator_disowns_nothing() -> None:
    """What a device hears is an ordinary reject: its session goes on."""
    _operator, device = established_pair()
    device.offer(make_sdp("DevRst1", fingerprint=FINGERPRINT_B), now=0.0, wall=WALL)
    offer = sent(device)[-1].jws
    said = message(Reject("no-session"), gen=1, seq=9, re=digest(offer, DEVICE_KEY))
    device.receive_jws(said, "mqtt", now=0.0, wall=WALL)
    assert events(device) == [OfferRejected(device.id, 1, "no-session", "", None)]
    assert not device.ended
