from __future__ import annotations

import pytest

from edgeice.signaling import (
    ByeReceived,
    CandidatesReceived,
    DeviceSignaling,
    OfferReceived,
    OfferRefused,
    OperatorLine,
    Party,
    PrivateKey,
    PublishInfo,
    Reject,
    SendSignal,
    SessionEnded,
    SessionFailed,
    SessionId,
)
from edgeice.signaling.messages import Answer, Bye, Candidates, Offer
from tests.unit.signaling.kit import (
    ALICE,
    ALICE_KEY,
    CANDIDATE,
    FINGERPRINT_B,
    MALLORY_KEY,
    SID,
    WALL,
    actions,
    altered,
    body_of,
    digest,
    events,
    first_offer,
    make_device,
    make_key,
    make_sdp,
    make_sid,
    message,
    read_claims,
    sent,
    trust,
)

KID = ALICE_KEY.public.kid
DEVICE_SDP = make_sdp("DeviceU", setup="active", fingerprint=FINGERPRINT_B)


def session_id(sid: str = SID) -> SessionId:
    return SessionId(ALICE, KID, sid)


def give(device: DeviceSignaling, jws: bytes, *, now: float = 0.0, wall: int | None = WALL) -> None:
    device.receive(ALICE, jws, now=now, wall=wall)


def rejects(device: DeviceSignaling) -> list[object]:
    """The codes of the rejects among the actions."""
    return [body_of(s.jws)["code"] for s in sent(device) if read_claims(s.jws)["t"] == "reject"]


def test_a_good_offer_begins_a_session() -> None:
    device = make_device()
    give(device, first_offer(device, want=("shell", "exec")))
    assert events(device) == [OfferReceived(session_id(), 0, make_sdp("AliceU"), ("shell", "exec"))]
    assert (device.sessions, actions(device), device.drops.total) == ((session_id(),), [], 0)
    session = device.session(session_id())
    assert session is not None
    assert session.answer(0, DEVICE_SDP, wall=WALL)
    (answer,) = sent(device)
    assert (answer.session, answer.road) == (session_id(), "mqtt")


def test_a_want_may_be_empty() -> None:
    device = make_device(trust=trust(OperatorLine("alice", ALICE_KEY.public)))
    give(device, first_offer(device, want=()))
    assert len(events(device)) == 1


# What strangers get: nothing


@pytest.mark.parametrize(
    ("change", "sender", "key", "reason"),
    [
        ({}, ALICE, MALLORY_KEY, "unknown-key"),
        ({}, Party.operator("lab", "bob"), ALICE_KEY, "foreign-party"),
        ({}, Party.device("lab", "alice"), ALICE_KEY, "foreign-party"),
        ({"iss": "lab/o/bob"}, ALICE, ALICE_KEY, "foreign-party"),
        ({"iss": "lab/o/bob"}, Party.operator("lab", "bob"), ALICE_KEY, "foreign-operator"),
        ({"iss": "lab/d/alice"}, Party.device("lab", "alice"), ALICE_KEY, "foreign-operator"),
        ({"iss": "den/o/alice"}, Party.operator("den", "alice"), ALICE_KEY, "foreign-operator"),
        ({"aud": "lab/d/pi18"}, ALICE, ALICE_KEY, "foreign-party"),
        ({"aud": "den/d/pi17"}, ALICE, ALICE_KEY, "foreign-party"),
        ({"sid": "x"}, ALICE, ALICE_KEY, "claims"),
        ({"gen": None}, ALICE, ALICE_KEY, "claims"),
        ({"t": "info"}, ALICE, ALICE_KEY, "type"),
        ({"t": "answer", "re": "x"}, ALICE, ALICE_KEY, "no-session"),
    ],
)
def test_host_25_no_answer_to_strangers(change: dict[str, object], sender: Party, key: PrivateKey, reason: str) -> None:
    device = make_device()
    device.receive(sender, altered(first_offer(device), key, **change), now=0.0, wall=WALL)
    assert (actions(device), events(device), device.sessions) == ([], [], ())
    assert device.drops.snapshot() == {reason: 1}


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"\xff\xfe", b"x" * 10_000_000, b'{"s":"ready"}', b"." * 1000, b"a.b.c"]
)
def test_host_24_garbage_is_counted_and_forgotten(payload: bytes) -> None:
    device = make_device()
    give(device, payload)
    assert (actions(device), events(device), device.drops.total) == ([], [], 1)


def test_host_25_a_rewritten_fingerprint_breaks_the_signature() -> None:
    device = make_device()
    header, _, signature = first_offer(device).split(b".")
    other = first_offer(device, sdp=make_sdp("AliceU", fingerprint=FINGERPRINT_B)).split(b".")[1]
    give(device, b".".join([header, other, signature]))
    assert (actions(device), events(device), device.drops.snapshot()) == ([], [], {"jws-signature": 1})


# The checks of a first offer, in their order


def refusal(device: DeviceSignaling, jws: bytes, *, wall: int | None = WALL) -> object:
    give(device, jws, wall=wall)
    found = rejects(device)
    assert len(found) <= 1
    assert device.sessions == ()
    return found[0] if found else None


def busy_device() -> DeviceSignaling:
    """One on which every check would fail: expired trust, draining, nothing allowed, no SDP good, no slot."""
    device = make_device(
        trust=trust(OperatorLine("alice", ALICE_KEY.public, expires=WALL)),
        check_sdp=lambda _: Reject("malformed", "no"),
        max_sessions=0,
    )
    device.set_draining(True)
    return device


def test_checks_of_a_first_offer_come_in_the_stated_order() -> None:
    device = busy_device()
    base = first_offer(device)
    bad_times = {"exp": WALL + 1000}
    codes = [
        refusal(device, altered(base, ALICE_KEY, v=2, nonce="stale", **bad_times)),
        _later(device, altered(base, ALICE_KEY, nonce="stale", **bad_times), 2.0),
        _later(device, altered(base, ALICE_KEY, nonce="stale"), 4.0),
        _later(device, base, 6.0),
        # Now the session is used up: the replay comes before everything behind it.
        _later(device, base, 8.0),
    ]
    assert codes == ["unsupported", "expired", "stale-nonce", "expired", None]
    assert device.drops.snapshot() == {"replayed": 1}

    device = busy_device()
    device.trust_changed(trust(OperatorLine("alice", ALICE_KEY.public)), now=0.0, wall=WALL)
    assert refusal(device, first_offer(device, sid=make_sid(1))) == "draining"
    device.set_draining(False)
    assert _later(device, first_offer(device, sid=make_sid(2)), 2.0) == "unauthorized"
    device.trust_changed(trust(), now=2.0, wall=WALL)
    assert _later(device, first_offer(device, sid=make_sid(3)), 4.0) == "malformed"

    device = make_device(max_sessions=0)
    assert refusal(device, first_offer(device)) is None  # it waits, see test_waiting.py
    device.handle_timeout(now=4.0, wall=WALL)
    assert rejects(device) == ["busy"]


def _later(device: DeviceSignaling, jws: bytes, now: float) -> object:
    give(device, jws, now=now)
    found = rejects(device)
    return found[0] if found else None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"v": 2}, "unsupported"),
        ({"v": ...}, "unsupported"),
        ({"sealed": "x"}, "unsupported"),
        ({"exp": ...}, "malformed"),
        ({"seq": "0"}, "malformed"),
        ({"nonce": ...}, "malformed"),
        ({"iat": WALL + 61, "exp": WALL + 90}, "expired"),
        ({"iat": WALL - 130, "exp": WALL - 70}, "expired"),
        ({"nonce": "other"}, "stale-nonce"),
        ({"body": {"sdp": "x"}}, "malformed"),
        ({"body": {"sdp": 1, "want": []}}, "malformed"),
        ({"body": {"sdp": "x", "want": ["shell", "admin"]}}, "unauthorized"),
        ({"body": {"sdp": "x", "want": ["\x1b[31m"]}}, "unauthorized"),
    ],
)
def test_offers_of_known_keys_are_refused_with_a_code(change: dict[str, object], code: str) -> None:
    device = make_device()
    jws = altered(first_offer(device), ALICE_KEY, **change)
    give(device, jws)
    signals = sent(device)
    assert [body_of(s.jws)["code"] for s in signals] == [code]
    claims = read_claims(signals[0].jws)
    assert (claims["seq"], claims["gen"], claims["sid"], claims["aud"]) == (0, 0, SID, "lab/o/alice")
    assert claims["re"] == digest(jws, ALICE_KEY)
    (refused,) = events(device)
    assert isinstance(refused, OfferRefused)
    assert (refused.session, refused.code) == (session_id(), code)


def test_the_refused_want_is_named() -> None:
    device = make_device()
    give(device, first_offer(device, want=("shell", "forward:*:22")))
    assert body_of(sent(device)[0].jws)["reason"] == "not allowed: forward:*:22"


def test_lines_of_one_key_add_up_while_they_hold() -> None:
    lines = (
        OperatorLine("alice", ALICE_KEY.public, ("shell",)),
        OperatorLine("alice", ALICE_KEY.public, ("exec",), expires=WALL + 10),
        OperatorLine("bob", ALICE_KEY.public, ("audit",)),
    )
    device = make_device(trust=trust(*lines))
    give(device, first_offer(device, sid=make_sid(1), want=("shell", "exec")))
    assert len(device.sessions) == 1
    give(device, first_offer(device, sid=make_sid(2), want=("audit",)), now=1.0)
    assert rejects(device) == ["unauthorized"], "another operator's line with the same key gives nothing"
    late = first_offer(device, sid=make_sid(3), want=("exec",), iat=WALL + 10)
    give(device, late, now=10.0, wall=WALL + 10)
    assert rejects(device)[-1:] == ["unauthorized"]


def test_without_a_clock_times_are_not_checked_and_trust_expires_by_the_build_date() -> None:
    device = make_device(
        trust=trust(OperatorLine("alice", ALICE_KEY.public, ("shell",), expires=1_795_478_400 + 1)),
    )
    give(device, first_offer(device, iat=5), wall=None)
    assert len(device.sessions) == 1
    device = make_device(trust=trust(OperatorLine("alice", ALICE_KEY.public, ("shell",), expires=1_795_478_400)))
    assert refusal(device, first_offer(device), wall=None) == "expired"


def test_a_callback_judges_the_description() -> None:
    device = make_device(check_sdp=lambda sdp: None if "AliceU" in sdp else Reject("unsupported", "no data channel"))
    assert refusal(device, first_offer(device, sdp="v=0")) == "unsupported"


# Freshness


def test_host_24_a_replayed_offer_of_an_ended_session_is_dropped_in_silence() -> None:
    device = make_device()
    offer = first_offer(device)
    give(device, offer)
    give(device, message(Bye("done"), seq=1))
    assert [type(event) for event in events(device)] == [OfferReceived, ByeReceived]
    give(device, offer, now=1.0)
    assert (actions(device), events(device), device.drops.snapshot()) == ([], [], {"replayed": 1})


def test_host_24_another_offer_of_a_running_session_is_dropped() -> None:
    device = make_device()
    give(device, first_offer(device))
    events(device)
    give(device, first_offer(device, sdp=make_sdp("AliceX")))
    assert (events(device), actions(device), device.drops.snapshot()) == ([], [], {"duplicate": 1})


def test_the_nonce_changes_at_each_connect_and_the_one_before_holds_120_seconds() -> None:
    device = make_device()
    first = device.nonce
    device.connected(now=10.0)
    assert device.nonce != first
    give(device, first_offer(device, sid=make_sid(1), nonce=first), now=129.9)
    assert len(device.sessions) == 1
    give(device, first_offer(device, sid=make_sid(2), nonce=first), now=130.0)
    assert rejects(device) == ["stale-nonce"]


def test_replay_memory_lives_as_long_as_its_nonce() -> None:
    device = make_device()
    offer = first_offer(device)
    give(device, offer)
    give(device, message(Bye("done"), seq=1))
    device.connected(now=10.0)
    give(device, offer, now=20.0)
    assert device.drops["replayed"] == 1
    device.connected(now=30.0)
    give(device, offer, now=40.0)
    assert rejects(device) == ["stale-nonce"]


@pytest.mark.slow
def test_the_nonce_changes_after_1024_new_sessions_and_the_memory_is_bounded() -> None:
    device = make_device()
    first = device.nonce
    offers: list[bytes] = []
    for number in range(1024):
        assert device.nonce == first
        sid = make_sid(number)
        offers.append(first_offer(device, sid=sid))
        give(device, offers[-1], now=0.0)
        session = device.session(session_id(sid))
        assert session is not None
        session.bye("done", wall=WALL)
        device.poll_event()
    assert device.nonce != first
    assert [type(action) for action in actions(device)].count(PublishInfo) == 1
    give(device, offers[0], now=1.0)
    give(device, offers[-1], now=1.0)
    assert device.drops["replayed"] == 2
    nonces = device._admission.nonces
    assert (len(nonces._used), len(nonces._used_previous)) == (0, 1024)


def test_info_is_published_before_a_stale_nonce_is_rejected() -> None:
    device = make_device()
    give(device, first_offer(device, nonce="stale"))
    info, reject = actions(device)
    assert info == PublishInfo()
    assert isinstance(reject, SendSignal)


# Limits


def test_rejects_are_limited_to_one_a_second_per_key_and_the_next_copy_is_judged_again() -> None:
    other = make_key(9)
    device = make_device(
        trust=trust(OperatorLine("alice", ALICE_KEY.public), OperatorLine("alice", other.public)),
    )
    offers = [first_offer(device, sid=make_sid(n)) for n in range(2)]
    give(device, offers[0], now=0.0)
    give(device, offers[1], now=0.5)
    assert (rejects(device), len(events(device))) == (["unauthorized"], 1)
    give(device, first_offer(device, sid=make_sid(3), key=other), now=0.5)
    assert rejects(device) == ["unauthorized"], "another key has its own second"
    give(device, offers[1], now=1.0)
    give(device, offers[1], now=2.0)
    assert rejects(device) == ["unauthorized"]
    assert device.drops.snapshot() == {"reject-rate": 1, "replayed": 1}


def test_two_unproven_slots_per_key() -> None:
    device = make_device()
    for number in range(3):
        give(device, first_offer(device, sid=make_sid(number)), now=float(number))
    assert (len(device.sessions), sent(device)) == (2, [])
    device.handle_timeout(now=6.0, wall=WALL)
    (busy,) = sent(device)
    assert body_of(busy.jws) == {
        "code": "busy",
        "reason": "2 sessions of your key are still being set up",
        "retry_after": 1,
    }
    device.proved(session_id(make_sid(0)))
    give(device, first_offer(device, sid=make_sid(4)), now=7.0)
    assert len(device.sessions) == 3


def test_slots_in_all() -> None:
    device = make_device(max_sessions=1)
    give(device, first_offer(device, sid=make_sid(1)))
    device.proved(session_id(make_sid(1)))
    give(device, first_offer(device, sid=make_sid(2)))
    device.handle_timeout(now=4.0, wall=WALL)
    (busy,) = sent(device)
    assert body_of(busy.jws) == {"code": "busy", "reason": "no session is free, 1 are in use", "retry_after": 2}


@pytest.mark.parametrize(
    ("pair_at", "freed_at"),
    [(None, 49.5), (5.0, 25.0), (39.0, 59.0)],
)
def test_an_unproven_slot_is_freed(pair_at: float | None, freed_at: float) -> None:
    device = make_device()
    give(device, first_offer(device))
    events(device)
    if pair_at is not None:
        device.first_pair(session_id(), now=pair_at)
        device.first_pair(session_id(), now=pair_at + 3.0)
    assert device.next_timeout() == freed_at
    device.handle_timeout(now=freed_at - 0.1, wall=WALL)
    assert events(device) == []
    device.handle_timeout(now=freed_at, wall=WALL)
    assert device.sessions == ()
    (bye,) = sent(device)
    assert body_of(bye.jws)["code"] == "unproven"
    (ended,) = events(device)
    assert isinstance(ended, SessionEnded)
    assert ended.code == "unproven"
    assert device.next_timeout() is None


def test_a_proved_slot_is_kept() -> None:
    device = make_device()
    give(device, first_offer(device))
    device.first_pair(session_id(), now=1.0)
    device.proved(session_id())
    assert device.next_timeout() is None


# Order


def test_messages_that_overtook_the_offer_are_held() -> None:
    device = make_device()
    give(device, message(Candidates("AliceU", (CANDIDATE,)), seq=1), now=0.0)
    give(device, message(Candidates("AliceU", (CANDIDATE,)), seq=1), now=0.0)
    assert (events(device), device.next_timeout(), device.drops.snapshot()) == ([], 5.0, {"held-full": 1})
    give(device, first_offer(device), now=1.0)
    assert [type(event) for event in events(device)] == [OfferReceived, CandidatesReceived]


def test_a_bye_that_overtook_the_offer_ends_it() -> None:
    device = make_device()
    give(device, message(Bye("done"), seq=2))
    give(device, first_offer(device), now=1.0)
    assert [type(event) for event in events(device)] == [OfferReceived, ByeReceived]
    assert (device.sessions, device.next_timeout()) == ((), None)


def test_what_comes_after_the_end_is_neither_held_nor_counted() -> None:
    device = make_device()
    give(device, first_offer(device))
    give(device, message(Bye("done"), seq=1), now=1.0)
    give(device, message(Candidates("AliceU", (CANDIDATE,)), seq=2), now=1.1)
    give(device, message(Bye("done"), seq=3), now=1.2)
    assert [type(event) for event in events(device)] == [OfferReceived, ByeReceived]
    assert (device.next_timeout(), device.drops.snapshot()) == (None, {})


def test_host_16_held_messages_are_bounded_in_time_and_number() -> None:
    device = make_device()
    for sid in range(6):
        for seq in range(1, 41):
            give(device, message(Candidates("AliceU", (CANDIDATE,)), sid=make_sid(sid), seq=seq))
    # Four sessions of one key, 32 candidates each.
    assert device.drops.snapshot() == {"held-full": 6 * 40 - 4 * 32}
    device.handle_timeout(now=5.0, wall=WALL)
    assert device.drops["held-expired"] == 4 * 32
    assert device.next_timeout() is None
    give(device, first_offer(device, sid=make_sid(0)), now=5.0)
    assert [type(event) for event in events(device)] == [OfferReceived]


def test_a_copy_of_the_first_offer_gets_the_cached_answer() -> None:
    device = make_device()
    offer = first_offer(device)
    give(device, offer)
    session = device.session(session_id())
    assert session is not None
    session.answer(0, DEVICE_SDP, wall=WALL)
    (answer,) = sent(device)
    device.set_draining(True)
    give(device, offer, now=100.0, wall=WALL + 100)
    (copy,) = sent(device)
    assert copy.jws == answer.jws


def test_sessions_of_two_keys_with_one_sid_do_not_meet() -> None:
    other = make_key(9)
    device = make_device(
        trust=trust(
            OperatorLine("alice", ALICE_KEY.public, ("shell",)), OperatorLine("alice", other.public, ("shell",))
        )
    )
    give(device, first_offer(device))
    give(device, first_offer(device, key=other))
    assert [session.kid for session in device.sessions] == [KID, other.public.kid]
    give(device, message(Bye("done"), key=other, seq=1))
    assert [session.kid for session in device.sessions] == [KID]


def test_the_channel_carries_only_its_own_session() -> None:
    device = make_device()
    give(device, first_offer(device, sid=make_sid(1)))
    give(device, first_offer(device, sid=make_sid(2)))
    events(device)
    bye = message(Bye("done"), sid=make_sid(2), seq=1).decode()
    device.receive_channel(session_id(make_sid(1)), bye, now=1.0, wall=WALL)
    assert (len(device.sessions), device.drops.snapshot()) == (2, {"foreign-session": 1})
    device.receive_channel(session_id(make_sid(2)), bye, now=1.0, wall=WALL)
    assert len(device.sessions) == 1
    device.receive_channel(session_id(make_sid(2)), bye, now=1.0, wall=WALL)
    assert device.drops["session-ended"] == 1


# Trust while sessions run


def test_a_removed_line_ends_its_sessions() -> None:
    device = make_device()
    give(device, first_offer(device))
    events(device)
    device.trust_changed(trust(), now=1.0, wall=WALL)
    assert events(device) == []
    device.trust_changed(trust(OperatorLine("alice", MALLORY_KEY.public, ("shell",))), now=2.0, wall=WALL)
    assert [body_of(s.jws)["code"] for s in sent(device)] == ["revoked"]
    (ended,) = events(device)
    assert isinstance(ended, SessionEnded)
    assert (ended.code, device.sessions) == ("revoked", ())


def test_what_a_session_is_granted_is_what_its_lines_hold_now() -> None:
    device = make_device()
    give(device, first_offer(device))
    device.trust_changed(
        trust(
            OperatorLine("alice", ALICE_KEY.public, ("shell", "forward:*:*")),
            OperatorLine("alice", ALICE_KEY.public, ("exec",), WALL + 10),
            OperatorLine("alice", MALLORY_KEY.public, ("audit",)),
            OperatorLine("bob", ALICE_KEY.public, ("admin",)),
        ),
        now=1.0,
        wall=WALL,
    )
    assert device.granted(session_id(), wall=WALL) == ("shell", "forward:*:*", "exec")
    assert device.granted(session_id(), wall=WALL + 10) == ("shell", "forward:*:*")


def test_a_narrowed_line_ends_the_sessions_that_use_more() -> None:
    device = make_device()
    give(device, first_offer(device, sid=make_sid(1), want=("shell",)))
    give(device, first_offer(device, sid=make_sid(2), want=("exec",)))
    device.trust_changed(trust(OperatorLine("alice", ALICE_KEY.public, ("shell",))), now=1.0, wall=WALL)
    assert device.sessions == (session_id(make_sid(1)),)


def test_a_line_that_expires_ends_its_sessions() -> None:
    device = make_device(trust=trust(OperatorLine("alice", ALICE_KEY.public, ("shell",), expires=WALL + 100)))
    give(device, first_offer(device), now=7.0)
    device.proved(session_id())
    assert device.next_timeout() == 107.0
    device.handle_timeout(now=107.0, wall=WALL + 100)
    assert (device.sessions, device.next_timeout()) == ((), None)


def test_an_answer_from_an_operator_to_nothing_is_dropped() -> None:
    device = make_device()
    give(device, first_offer(device))
    give(device, message(Answer(DEVICE_SDP), seq=1, re="A" * 43))
    assert device.drops.snapshot() == {"nothing-pending": 1}


def test_a_restart_of_a_running_session_needs_no_nonce() -> None:
    device = make_device()
    give(device, first_offer(device))
    session = device.session(session_id())
    assert session is not None
    session.answer(0, DEVICE_SDP, wall=WALL)
    events(device)
    device.connected(now=1.0)
    device.connected(now=500.0)
    give(device, message(Offer(make_sdp("AliceR")), gen=1, seq=1), now=501.0)
    assert [type(event) for event in events(device)] == [OfferReceived]


# Defects


def fail(*_arguments: object, **_more: object) -> None:
    raise ZeroDivisionError


def device_with_two_sessions() -> DeviceSignaling:
    device = make_device()
    for number in (1, 2):
        give(device, first_offer(device, sid=make_sid(number)))
        session = device.session(session_id(make_sid(number)))
        assert session is not None
        session.answer(0, DEVICE_SDP, wall=WALL)
    events(device)
    actions(device)
    return device


@pytest.mark.parametrize("input_", ["mqtt", "channel", "timeout"])
def test_a_defect_in_one_session_ends_it_and_no_other(input_: str) -> None:
    device = device_with_two_sessions()
    spoiled, healthy = session_id(make_sid(1)), session_id(make_sid(2))
    machine, other = device.session(spoiled), device.session(healthy)
    assert machine is not None
    assert other is not None
    for each in (machine, other):
        each.channel_open = True
        each.offer(make_sdp("DeviceV", setup="actpass", fingerprint=FINGERPRINT_B), now=1.0, wall=WALL)
    actions(device)
    candidates = message(Candidates("AliceU", (CANDIDATE,), end=False), sid=make_sid(1), seq=1)
    if input_ == "timeout":
        machine._repeat_offer = fail  # type: ignore[method-assign]
        device.handle_timeout(now=2.0, wall=WALL)
    else:
        machine._incoming.receive = fail  # type: ignore[method-assign]
        if input_ == "mqtt":
            give(device, candidates, now=1.0)
        else:
            device.receive_channel(spoiled, candidates.decode(), now=1.0, wall=WALL)
    (failed,) = events(device)
    assert isinstance(failed, SessionFailed)
    assert (failed.session, type(failed.error)) == (spoiled, ZeroDivisionError)
    mine = [s for s in sent(device) if s.session == spoiled]
    assert [(s.road, dict(body_of(s.jws))) for s in mine] == [
        ("both", {"code": "error", "reason": "the agent failed; see its log"})
    ]
    assert device.sessions == (healthy,)
    # Its deadlines are gone with it.
    actions(device)
    device.handle_timeout(now=3.0, wall=WALL)
    assert {s.session for s in sent(device)} <= {healthy}
    assert events(device) == []


def test_a_session_whose_signing_fails_is_forgotten_all_the_same() -> None:
    device = device_with_two_sessions()
    machine = device.session(session_id(make_sid(1)))
    assert machine is not None
    machine._signer.sign = fail  # type: ignore[method-assign,assignment]
    device.fail(session_id(make_sid(1)), wall=WALL)
    assert (device.sessions, actions(device), events(device)) == ((session_id(make_sid(2)),), [], [])
    device.fail(session_id(make_sid(1)), wall=WALL)  # nothing is left to end
