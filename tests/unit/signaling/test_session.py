from __future__ import annotations

import itertools

import pytest

from edgeice.errors import LocalProtocolError
from edgeice.sansio import Event
from edgeice.signaling import (
    AnswerReceived,
    ByeReceived,
    CandidatesReceived,
    EndOfCandidatesReceived,
    LocalOfferCanceled,
    OfferExpired,
    OfferReceived,
    OfferRejected,
    Party,
    Reject,
    Road,
    SessionId,
    SignalingSession,
)
from edgeice.signaling.jws import decode, verify
from edgeice.signaling.messages import Answer, Bye, Candidates, Offer
from edgeice.signaling.receiver import HELD_TIME
from tests.unit.signaling.kit import (
    ALICE_KEY,
    CANDIDATE,
    DEVICE,
    DEVICE_KEY,
    FINGERPRINT_B,
    MALLORY_KEY,
    SID,
    WALL,
    accept,
    actions,
    altered,
    body_of,
    digest,
    established_pair,
    events,
    make_pair,
    make_sdp,
    make_sid,
    message,
    read_claims,
    sent,
)

OTHER = CANDIDATE.replace("50000", "50001")
DEVICE_SDP = make_sdp("DeviceU", setup="active", fingerprint=FINGERPRINT_B)
DEVICE_RESTART = make_sdp("DevRst1", fingerprint=FINGERPRINT_B)


def started() -> tuple[SignalingSession, SignalingSession, bytes]:
    """Generation 0 offered at time 0, the device has it and its answer is to come."""
    operator, device = make_pair()
    assert operator.offer(make_sdp("AliceU"), now=0.0, wall=WALL, want=("shell",), nonce="n") == 0
    (first,) = sent(operator)
    accept(device, first.jws)
    events(device)
    return operator, device, first.jws


def give(
    session: SignalingSession, jws: bytes, *, now: float = 0.0, road: Road = "mqtt", wall: int | None = WALL
) -> None:
    session.receive_jws(jws, road, now=now, wall=wall)


def candidates(seq: int, *found: str, ufrag: str = "AliceU", end: bool = False, removed: tuple[str, ...] = ()) -> bytes:
    return message(Candidates(ufrag, found, end, removed), seq=seq)


def run(session: SignalingSession, until: float) -> list[tuple[float, object]]:
    """Wake the machine exactly when it asks, and note what goes out and what is told, with the time."""
    log: list[tuple[float, object]] = []
    while (at := session.next_timeout()) is not None and at <= until:
        session.handle_timeout(now=at, wall=WALL)
        log += [(at, action) for action in actions(session)] + [(at, event) for event in events(session)]
    return log


# Offers, answers, and their repetition


def test_an_unanswered_offer_is_repeated_at_1_2_and_4_seconds_and_given_up_at_10() -> None:
    operator, _, jws = started()
    log = run(operator, 100.0)
    assert [at for at, _ in log] == [1.0, 2.0, 4.0, 10.0]
    assert all(getattr(action, "jws", None) == jws for _, action in log[:3])
    assert log[3][1] == OfferExpired(operator.id, 0)
    assert operator.next_timeout() is None


def test_handle_timeout_does_nothing_before_the_deadline() -> None:
    operator, _, _ = started()
    operator.handle_timeout(now=0.999, wall=WALL)
    assert (actions(operator), events(operator), operator.next_timeout()) == ([], [], 1.0)


def test_an_answer_ends_the_repetition() -> None:
    operator, device, _ = started()
    assert device.answer(0, DEVICE_SDP, wall=WALL)
    (answer,) = sent(device)
    assert (answer.road, answer.expiry, answer.session) == ("mqtt", 30, device.id)
    give(operator, answer.jws)
    assert events(operator) == [AnswerReceived(operator.id, 0, DEVICE_SDP)]
    assert run(operator, 100.0) == []


def test_a_copy_of_the_offer_gets_the_cached_answer_on_its_road() -> None:
    _, device, offer = started()
    give(device, offer, now=0.5)
    assert (actions(device), device.drops["duplicate"]) == ([], 1)
    device.answer(0, DEVICE_SDP, wall=WALL)
    (answer,) = sent(device)
    # Its times are not checked again, and it comes before the `seq` window.
    give(device, offer, now=900.0, wall=WALL + 900)
    (again,) = sent(device)
    assert (again.jws, again.road) == (answer.jws, "mqtt")
    assert events(device) == []


def test_answers_and_their_copies_carry_re() -> None:
    _, device, offer = started()
    device.answer(0, DEVICE_SDP, wall=WALL)
    claims = read_claims(sent(device)[0].jws)
    assert claims["re"] == digest(offer, ALICE_KEY)
    assert (claims["iss"], claims["aud"], claims["seq"], claims["gen"]) == ("lab/d/pi17", "lab/o/alice", 0, 0)


def device_message(body: Answer | Bye | Reject | Candidates | Offer, seq: int, **more: object) -> bytes:
    return message(
        body,
        key=DEVICE_KEY,
        iss=DEVICE,
        aud=Party.operator("lab", "alice"),
        seq=seq,
        **more,  # type: ignore[arg-type]
    )


def test_host_25_an_answer_to_another_offer_is_dropped() -> None:
    operator, _, _ = started()
    give(operator, device_message(Answer(DEVICE_SDP), 0, re="A" * 43))
    give(operator, device_message(Reject("busy"), 1, re="A" * 43))
    assert (events(operator), operator.drops["re-mismatch"]) == ([], 2)
    assert operator.next_timeout() == 1.0


def test_an_answered_offer_cannot_be_rejected_later() -> None:
    operator, device, offer = started()
    device.answer(0, DEVICE_SDP, wall=WALL)
    assert not device.reject(0, Reject("busy"), now=1.0, wall=WALL)
    give(operator, sent(device)[0].jws)
    events(operator)
    give(operator, device_message(Reject("busy"), 1, re=digest(offer, ALICE_KEY)))
    assert (events(operator), operator.drops["nothing-pending"], operator.ended) == ([], 1, False)


def test_a_reject_of_the_first_offer_ends_the_session() -> None:
    operator, device, _ = started()
    assert device.reject(0, Reject("malformed", "no ufrag", 5), now=0.0, wall=WALL)
    (reject,) = sent(device)
    assert read_claims(reject.jws)["seq"] == 0
    assert device.ended
    give(operator, reject.jws)
    assert events(operator) == [OfferRejected(operator.id, 0, "malformed", "no ufrag", 5)]
    assert (operator.ended, operator.next_timeout()) == (True, None)


def test_a_first_offer_whose_reject_was_kept_back_is_rejected_at_its_next_copy() -> None:
    _, device, offer = started()
    device._rejects.allow(device.id.kid, now=0.0)
    assert device.reject(0, Reject("malformed"), now=0.5, wall=WALL)
    assert (sent(device), device.ended) == ([], False)
    give(device, offer, now=1.0)
    assert [read_claims(s.jws)["t"] for s in sent(device)] == ["reject"]
    assert device.ended


# What does not belong to the session


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iss": "lab/o/bob"}, "foreign-session"),
        ({"iss": "lab/d/alice"}, "foreign-session"),
        ({"iss": "other/o/alice"}, "foreign-session"),
        ({"aud": "lab/d/pi18"}, "foreign-session"),
        ({"sid": make_sid(9)}, "foreign-session"),
        ({"v": 2}, "version"),
        ({"t": "info"}, "type"),
        ({"exp": ...}, "claims"),
        ({"exp": WALL + 61}, "expired"),
        ({"iat": WALL - 200, "exp": WALL - 140}, "expired"),
        ({"body": 1}, "claims"),
    ],
)
@pytest.mark.parametrize("road", ["mqtt", "channel"])
def test_host_25_foreign_and_wrong_messages_are_dropped_and_do_not_use_up_seq(
    change: dict[str, object], reason: str, road: Road
) -> None:
    _, device = established_pair()
    good = candidates(1, CANDIDATE)
    give(device, altered(good, ALICE_KEY, **change), road=road)
    assert (events(device), device.drops.snapshot()) == ([], {reason: 1})
    give(device, good, road=road)
    assert len(events(device)) == 1


def test_host_25_another_key_that_names_the_sid_is_dropped() -> None:
    _, device = established_pair()
    give(device, message(Bye("done"), key=MALLORY_KEY, seq=1))
    forged = message(Bye("done"), key=MALLORY_KEY, seq=1)
    give(device, forged, road="channel")
    assert (events(device), device.drops["jws-key"], device.ended) == ([], 2, False)


@pytest.mark.parametrize("data", ["", "{}", "ä" * 10, "\ud800", "a.b.c", "x" * 40_000])
def test_host_24_garbage_on_the_channel(data: str) -> None:
    _, device = established_pair()
    device.receive_jws(data, "channel", now=0.0, wall=WALL)
    assert (events(device), device.drops.total) == ([], 1)


def test_an_operator_checks_no_times() -> None:
    operator, device, offer = started()
    late = device_message(Answer(DEVICE_SDP), 0, re=digest(offer, ALICE_KEY), iat=1, lifetime=9999)
    give(operator, late)
    assert len(events(operator)) == 1
    assert device.drops.total == 0


def test_a_device_without_a_clock_checks_no_times() -> None:
    _, device = established_pair()
    old = message(Candidates("AliceU", (CANDIDATE,)), seq=1, iat=1, lifetime=9999)
    give(device, old, wall=WALL)
    assert events(device) == []
    give(device, old, wall=None)
    assert len(events(device)) == 1


def test_a_device_without_a_clock_signs_with_the_build_date() -> None:
    _, device, _ = started()
    device.answer(0, DEVICE_SDP, wall=None)
    claims = read_claims(sent(device)[0].jws)
    assert (claims["iat"], claims["exp"]) == (1_795_478_400, 1_795_478_460)


# seq


def test_trk_02_a_message_on_both_roads_counts_once() -> None:
    _, device = established_pair()
    jws = candidates(1, CANDIDATE)
    give(device, jws, road="channel")
    give(device, jws, road="mqtt")
    assert (len(events(device)), device.drops.snapshot()) == (1, {"duplicate": 1})


def test_trk_02_another_message_with_a_used_seq_is_dropped() -> None:
    _, device = established_pair()
    give(device, candidates(1, CANDIDATE))
    give(device, candidates(1, OTHER))
    assert (len(events(device)), device.drops.snapshot()) == (1, {"duplicate": 1})


def test_a_seq_behind_the_window_is_dropped() -> None:
    _, device = established_pair()
    give(device, candidates(70, CANDIDATE))
    give(device, candidates(6, OTHER))
    give(device, candidates(7, OTHER))
    assert (len(events(device)), device.drops.snapshot()) == (2, {"duplicate": 1})


def test_one_counter_numbers_the_messages_of_both_roads() -> None:
    operator, _ = established_pair()
    operator.send_candidates(0, "AliceU", (CANDIDATE,), end=False, now=0.0, wall=WALL)
    operator.offer(make_sdp("AliceR"), now=0.0, wall=WALL)
    operator.bye("done", wall=WALL)
    assert [(read_claims(s.jws)["t"], read_claims(s.jws)["seq"], s.road) for s in sent(operator)] == [
        ("candidates", 1, "both"),
        ("offer", 2, "both"),
        ("bye", 3, "both"),
    ]


# Candidates


def test_trk_04_early_candidates_are_held_and_delivered_after_their_description() -> None:
    operator, device, _ = started()
    device.answer(0, DEVICE_SDP, wall=WALL)
    device.send_candidates(0, "DeviceU", (CANDIDATE,), end=True, now=0.0, wall=WALL)
    answer, more = sent(device)
    give(operator, more.jws, now=0.1)
    assert (events(operator), operator.next_timeout()) == ([], 1.0)
    give(operator, answer.jws, now=0.2)
    assert events(operator) == [
        AnswerReceived(operator.id, 0, DEVICE_SDP),
        CandidatesReceived(operator.id, 0, "DeviceU", (CANDIDATE,)),
        EndOfCandidatesReceived(operator.id, 0, "DeviceU"),
    ]
    assert operator.next_timeout() is None


def test_trk_04_early_candidates_are_forgotten_after_5_seconds() -> None:
    operator, device, offer = started()
    give(operator, device_message(Candidates("DeviceU", (CANDIDATE,)), 1), now=0.5)
    operator.handle_timeout(now=5.4, wall=WALL)
    assert operator.drops["held-expired"] == 0
    operator.handle_timeout(now=5.5, wall=WALL)
    assert operator.drops["held-expired"] == 1
    give(operator, device_message(Answer(DEVICE_SDP), 0, re=digest(offer, ALICE_KEY)), now=5.6)
    assert [type(event) for event in events(operator)] == [AnswerReceived]
    assert device.drops.total == 0


def test_host_16_a_flood_of_early_candidates_is_bounded_at_32() -> None:
    operator, _, offer = started()
    for seq in range(1, 50):
        give(operator, device_message(Candidates("DeviceU", (f"candidate:{seq}",)), seq))
    assert operator.drops.snapshot() == {"held-full": 17}
    give(operator, device_message(Answer(DEVICE_SDP), 0, re=digest(offer, ALICE_KEY)))
    assert len(events(operator)) == 1 + 32


def test_host_12_a_flood_of_candidates_is_bounded_per_generation() -> None:
    _, device = established_pair()
    for seq in range(1, 11):
        give(device, candidates(seq, *[f"candidate:{seq}-{n}" for n in range(64)]))
    delivered = [event for event in events(device) if isinstance(event, CandidatesReceived)]
    assert sum(len(event.candidates) for event in delivered) == 128
    assert device.drops["candidate-flood"] == 10 * 64 - 128


def test_host_16_candidates_of_an_unknown_ufrag_are_dropped() -> None:
    _, device = established_pair()
    give(device, candidates(1, CANDIDATE, ufrag="Other"))
    assert (events(device), device.drops.snapshot()) == ([], {"unknown-ufrag": 1})


def test_host_16_candidates_and_end_of_an_old_generation_are_ignored_after_a_restart() -> None:
    operator, device = established_pair()
    operator.offer(make_sdp("AliceR"), now=1.0, wall=WALL)
    give(device, sent(operator)[0].jws, now=1.0)
    # While the restart is pending the present generation still takes candidates.
    give(device, candidates(2, CANDIDATE), now=1.0)
    assert [type(event) for event in events(device)] == [OfferReceived, CandidatesReceived]
    device.answer(1, make_sdp("DevRst1", setup="active", fingerprint=FINGERPRINT_B), wall=WALL)
    give(device, candidates(3, CANDIDATE, end=True), now=1.1)
    assert (events(device), device.drops.snapshot()) == ([], {"old-generation": 1})


def test_end_waits_for_every_lower_seq() -> None:
    _, device = established_pair()
    give(device, candidates(3, CANDIDATE, end=True), now=1.0)
    give(device, candidates(1, OTHER), now=1.1)
    assert [type(event) for event in events(device)] == [CandidatesReceived] * 2
    give(device, candidates(2, "candidate:2"), now=1.2)
    assert [type(event) for event in events(device)] == [CandidatesReceived, EndOfCandidatesReceived]
    assert (device.drops.snapshot(), device.next_timeout()) == ({}, None)


def test_candidates_after_the_end_are_passed_on_and_a_second_end_is_not() -> None:
    _, device = established_pair()
    give(device, candidates(1, CANDIDATE, end=True), now=1.0)
    assert [type(event) for event in events(device)] == [CandidatesReceived, EndOfCandidatesReceived]
    give(device, candidates(2, OTHER, end=True, removed=(CANDIDATE,)), now=2.0)
    assert events(device) == [CandidatesReceived(device.id, 0, "AliceU", (OTHER,), (CANDIDATE,))]
    assert (device.drops.snapshot(), device.next_timeout()) == ({}, None)


def test_a_candidate_that_is_told_again_comes_once_unless_it_was_withdrawn() -> None:
    _, device = established_pair()
    give(device, candidates(1, CANDIDATE))
    give(device, candidates(2, CANDIDATE, OTHER))
    give(device, candidates(3, removed=(CANDIDATE, CANDIDATE)))
    give(device, candidates(4, removed=(CANDIDATE,)))
    give(device, candidates(5, CANDIDATE))
    give(device, candidates(6, CANDIDATE, removed=(CANDIDATE,)))
    assert [(e.candidates, e.removed) for e in events(device) if isinstance(e, CandidatesReceived)] == [
        ((CANDIDATE,), ()),
        ((OTHER,), ()),
        ((), (CANDIDATE,)),
        ((CANDIDATE,), ()),
        ((CANDIDATE,), (CANDIDATE,)),
    ]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_latest_word_about_a_candidate_counts_in_whatever_order_the_roads_bring_them(
    order: tuple[int, ...],
) -> None:
    _, device = established_pair()
    words = [
        candidates(1, CANDIDATE),
        candidates(2, removed=(CANDIDATE,)),
        candidates(3, CANDIDATE, OTHER),
        candidates(4, removed=(OTHER,)),
    ]
    for index in order:
        give(device, words[index], road="channel" if index % 2 else "mqtt")
    standing: set[str] = set()
    for event in events(device):
        assert isinstance(event, CandidatesReceived)
        standing -= set(event.removed)
        standing |= set(event.candidates)
    assert standing == {CANDIDATE}


def test_a_candidate_of_the_description_can_be_withdrawn() -> None:
    _, device = established_pair()
    give(device, candidates(1, removed=(CANDIDATE,)))
    assert events(device) == [CandidatesReceived(device.id, 0, "AliceU", (), (CANDIDATE,))]


def test_host_12_withdrawals_make_room_and_a_flood_of_them_is_bounded() -> None:
    _, device = established_pair()
    names = [f"candidate:{n}" for n in range(1000)]
    give(device, candidates(1, *names[:64]))
    give(device, candidates(2, *names[64:128]))
    give(device, candidates(3, names[128], names[0]))
    assert device.drops.snapshot() == {"candidate-flood": 1}
    give(device, candidates(4, *names[128:131], removed=(names[0], names[1])))
    assert device.drops.snapshot() == {"candidate-flood": 2}
    events(device)
    for index in range(10):
        give(device, candidates(5 + index, removed=tuple(names[200 + 60 * index :][:60])))
    (ledger,) = [generation.ledger for generation in device._incoming._live.values()]
    assert (len(ledger._standing), len(ledger._gone)) == (128, 128)


def test_host_16_withdrawals_of_an_unknown_ufrag_or_generation_are_dropped_and_replays_count_once() -> None:
    _, device = established_pair()
    give(device, candidates(1, ufrag="Other", removed=(CANDIDATE,)))
    give(device, candidates(2, ufrag="DeviceU", removed=(CANDIDATE,)))
    assert (events(device), device.drops.snapshot()) == ([], {"unknown-ufrag": 2})
    good = candidates(3, removed=(CANDIDATE,))
    for road in ("mqtt", "channel", "mqtt"):
        give(device, good, road=road)
    assert (len(events(device)), device.drops["duplicate"]) == (1, 2)
    give(device, message(Candidates("AliceU", (), removed=(OTHER,)), gen=7, seq=4))
    assert (events(device), device.next_timeout()) == ([], HELD_TIME)
    device.handle_timeout(now=HELD_TIME, wall=WALL)
    assert device.drops["held-expired"] == 1


def test_host_16_early_withdrawals_count_for_what_is_held() -> None:
    operator, _, _ = started()
    gone = tuple(f"candidate:{n}" for n in range(20))
    give(operator, device_message(Candidates("DeviceU", (), removed=gone), 1))
    give(operator, device_message(Candidates("DeviceU", gone), 2))
    assert operator.drops.snapshot() == {"held-full": 1}


def test_end_waits_5_seconds_at_most() -> None:
    _, device = established_pair()
    give(device, candidates(3, end=True), now=1.0)
    assert device.next_timeout() == 6.0
    device.handle_timeout(now=5.9, wall=WALL)
    assert events(device) == []
    device.handle_timeout(now=6.0, wall=WALL)
    assert events(device) == [EndOfCandidatesReceived(device.id, 0, "AliceU")]


def test_end_in_the_description_says_the_same() -> None:
    operator, device = make_pair()
    operator.offer(make_sdp("AliceU", end=True), now=0.0, wall=WALL, nonce="n")
    accept(device, sent(operator)[0].jws)
    assert [type(event) for event in events(device)] == [OfferReceived, EndOfCandidatesReceived]


def test_own_candidates_go_first_at_once_and_then_gather_for_50_ms() -> None:
    operator, _ = established_pair()
    names = [f"candidate:{n}" for n in range(5)]
    operator.send_candidates(0, "AliceU", tuple(names[:1]), end=False, now=0.0, wall=WALL)
    assert len(sent(operator)) == 1
    for index, now in ((1, 0.01), (2, 0.03), (3, 0.05)):
        operator.send_candidates(0, "AliceU", (names[index],), end=False, now=now, wall=WALL)
        assert sent(operator) == []
        assert operator.next_timeout() == pytest.approx(0.06)
    operator.handle_timeout(now=0.061, wall=WALL)
    (batch,) = sent(operator)
    assert (body_of(batch.jws)["candidates"], batch.expiry, operator.next_timeout()) == (names[1:4], 15, None)
    # `end` has nothing to wait for.
    operator.send_candidates(0, "AliceU", (names[4],), end=True, now=0.07, wall=WALL)
    (last,) = sent(operator)
    assert body_of(last.jws) == {"ufrag": "AliceU", "candidates": names[4:], "end": True}


def test_own_candidates_of_a_move_go_5_ms_after_the_first_with_what_is_withdrawn() -> None:
    operator, _ = established_pair()
    operator.send_candidates(0, "AliceU", (CANDIDATE,), end=True, now=0.0, wall=WALL)
    assert len(sent(operator)) == 1
    operator.send_candidates(0, "AliceU", (), removed=(CANDIDATE,), end=False, now=5.0, wall=WALL)
    operator.send_candidates(0, "AliceU", (OTHER,), end=False, now=5.001, wall=WALL)
    assert (sent(operator), operator.next_timeout()) == ([], 5.005)
    operator.handle_timeout(now=5.005, wall=WALL)
    (moved,) = sent(operator)
    assert body_of(moved.jws) == {"ufrag": "AliceU", "candidates": [OTHER], "end": False, "removed": [CANDIDATE]}
    assert (moved.road, moved.expiry, operator.next_timeout()) == ("both", 15, None)


def test_an_own_candidate_that_goes_before_it_was_told_is_not_spoken_of() -> None:
    operator, device = established_pair()
    operator.send_candidates(0, "AliceU", (CANDIDATE,), end=False, now=0.0, wall=WALL)
    operator.send_candidates(0, "AliceU", (OTHER,), end=False, now=0.01, wall=WALL)
    operator.send_candidates(0, "AliceU", (), removed=(OTHER,), end=False, now=0.02, wall=WALL)
    operator.send_candidates(0, "AliceU", (), removed=(CANDIDATE,), end=False, now=0.03, wall=WALL)
    operator.send_candidates(0, "AliceU", (CANDIDATE,), end=False, now=0.04, wall=WALL)
    operator.handle_timeout(now=0.061, wall=WALL)
    first, then = sent(operator)
    assert (body_of(then.jws)["candidates"], body_of(then.jws)["removed"]) == ([CANDIDATE], [CANDIDATE])
    for each in (first, then):
        give(device, each.jws, now=0.1)
    assert [(e.candidates, e.removed) for e in events(device) if isinstance(e, CandidatesReceived)] == [
        ((CANDIDATE,), ()),
        ((CANDIDATE,), (CANDIDATE,)),
    ]


def test_many_own_candidates_that_are_withdrawn_are_split_and_bounded() -> None:
    operator, _ = established_pair()
    names = tuple(f"candidate:{n}" for n in range(300))
    operator.send_candidates(0, "AliceU", (), end=True, now=0.0, wall=WALL)
    assert len(sent(operator)) == 1
    operator.send_candidates(0, "AliceU", names[:1], removed=names, end=False, now=1.0, wall=WALL)
    operator.handle_timeout(now=1.005, wall=WALL)
    bodies = [body_of(each.jws) for each in sent(operator)]
    assert [len(body["removed"]) for body in bodies if "removed" in body] == [32] * 4  # type: ignore[arg-type]
    assert bodies[-1]["candidates"] == [names[0]]


def test_own_candidates_wait_for_their_description() -> None:
    _, device, _ = started()
    device.send_candidates(0, "DeviceU", (CANDIDATE,), end=False, now=0.0, wall=WALL)
    assert (sent(device), device.next_timeout()) == ([], None)
    device.answer(0, DEVICE_SDP, wall=WALL)
    assert [read_claims(s.jws)["t"] for s in sent(device)] == ["answer", "candidates"]


def test_own_candidates_of_another_ufrag_are_not_sent() -> None:
    operator, _ = established_pair()
    operator.send_candidates(0, "Old+", (CANDIDATE,), end=True, now=0.0, wall=WALL)
    assert sent(operator) == []
    with pytest.raises(LocalProtocolError):
        operator.send_candidates(2, "AliceU", (CANDIDATE,), end=True, now=0.0, wall=WALL)


def test_many_own_candidates_are_split_into_messages() -> None:
    operator, _ = established_pair()
    operator.send_candidates(0, "AliceU", ("candidate:" + "x" * 500,) * 70, end=True, now=0.0, wall=WALL)
    messages = sent(operator)
    assert [len(body_of(m.jws)["candidates"]) for m in messages] == [32, 32, 6]  # type: ignore[arg-type]
    assert [body_of(m.jws)["end"] for m in messages] == [False, False, True]
    assert max(len(m.jws) for m in messages) < 32 * 1024


# Restarts, generations, glare


def test_a_restart_goes_both_roads_and_the_first_copy_counts() -> None:
    operator, device = established_pair()
    assert operator.offer(make_sdp("AliceR"), now=1.0, wall=WALL) == 1
    (restart,) = sent(operator)
    assert restart.road == "both"
    give(device, restart.jws, road="channel", now=1.0)
    give(device, restart.jws, road="mqtt", now=1.1)
    assert events(device) == [OfferReceived(device.id, 1, make_sdp("AliceR"))]
    assert device.answer(1, make_sdp("DevRst1", setup="active", fingerprint=FINGERPRINT_B), wall=WALL)
    (answer,) = sent(device)
    give(device, restart.jws, road="mqtt", now=1.2)
    (copy,) = sent(device)
    assert (answer.road, copy.road, copy.jws == answer.jws) == ("both", "mqtt", True)
    give(operator, answer.jws, road="channel", now=1.3)
    give(operator, copy.jws, road="mqtt", now=1.3)
    assert [type(event) for event in events(operator)] == [AnswerReceived]
    assert operator.drops.snapshot() == {"duplicate": 1}


def test_a_device_may_restart() -> None:
    operator, device = established_pair()
    assert device.offer(DEVICE_RESTART, now=1.0, wall=WALL) == 1
    give(operator, sent(device)[0].jws, now=1.0)
    assert [type(event) for event in events(operator)] == [OfferReceived]
    assert operator.answer(1, make_sdp("AliceR", setup="passive"), wall=WALL)
    give(device, sent(operator)[0].jws, now=1.0)
    assert [type(event) for event in events(device)] == [AnswerReceived]


def test_glare_the_operators_offer_wins() -> None:
    operator, device = established_pair()
    operator.offer(make_sdp("AliceR"), now=1.0, wall=WALL)
    device.offer(DEVICE_RESTART, now=1.0, wall=WALL)
    theirs, ours = sent(device)[0].jws, sent(operator)[0].jws
    give(operator, theirs, now=1.1)
    give(device, ours, now=1.1)
    assert (events(operator), operator.drops.snapshot()) == ([], {"glare": 1})
    assert events(device) == [OfferReceived(device.id, 1, make_sdp("AliceR"), rolled_back=True)]
    assert device.next_timeout() is None, "the rolled-back offer is not repeated"
    device.answer(1, make_sdp("DevRst2", setup="active", fingerprint=FINGERPRINT_B), wall=WALL)
    give(operator, sent(device)[0].jws, now=1.2)
    assert [type(event) for event in events(operator)] == [AnswerReceived]


def test_a_higher_generation_cancels_the_own_pending_lower_offer() -> None:
    operator, device = established_pair()
    device.offer(DEVICE_RESTART, now=1.0, wall=WALL)
    higher = message(Offer(make_sdp("AliceR")), gen=2, seq=1)
    give(device, higher, now=1.1)
    assert events(device) == [
        LocalOfferCanceled(device.id, 1),
        OfferReceived(device.id, 2, make_sdp("AliceR")),
    ]
    assert (device.next_timeout(), device.next_gen) == (None, 3)
    assert operator.drops.total == 0


def test_host_16_a_lower_generation_is_dropped() -> None:
    _, device = established_pair()
    give(device, message(Offer(make_sdp("AliceR")), gen=5, seq=1), now=1.0)
    give(device, message(Offer(make_sdp("AliceS")), gen=4, seq=2), now=1.0)
    give(device, message(Offer(make_sdp("AliceT")), gen=5, seq=3), now=1.0)
    give(device, message(Offer(make_sdp("AliceT")), gen=0, seq=4, nonce="n"), now=1.0)
    assert [event.gen for event in events(device) if isinstance(event, OfferReceived)] == [5]
    assert device.drops.snapshot() == {"lower-generation": 3}


def test_a_restart_takes_one_more_than_the_highest_sent_or_received_failed_ones_included() -> None:
    operator, device = established_pair()
    operator.offer(make_sdp("AliceR"), now=1.0, wall=WALL)
    sent(operator)
    operator.handle_timeout(now=11.0, wall=WALL)
    assert OfferExpired(operator.id, 1) in events(operator)
    assert operator.next_gen == 2
    operator.offer(make_sdp("AliceS"), now=12.0, wall=WALL)
    give(device, sent(operator)[-1].jws, now=12.0)
    assert device.next_gen == 3
    device.reject(2, Reject("busy"), now=12.0, wall=WALL)
    assert device.next_gen == 3


def test_a_device_whose_lost_restart_expired_takes_the_operators_of_that_generation() -> None:
    _, device = established_pair()
    device.offer(DEVICE_RESTART, now=1.0, wall=WALL)
    device.handle_timeout(now=11.0, wall=WALL)
    events(device)
    give(device, message(Offer(make_sdp("AliceR")), gen=1, seq=1), now=12.0)
    assert events(device) == [OfferReceived(device.id, 1, make_sdp("AliceR"))]


def test_a_rejected_restart_leaves_the_session_as_it_was() -> None:
    operator, device = established_pair()
    operator.offer(make_sdp("AliceR"), now=1.0, wall=WALL)
    give(device, sent(operator)[0].jws, now=1.0)
    assert device.reject(1, Reject("busy", "later", 3), now=1.0, wall=WALL)
    assert not device.answer(1, DEVICE_SDP, wall=WALL)
    give(operator, sent(device)[0].jws, now=1.0)
    assert events(operator) == [OfferRejected(operator.id, 1, "busy", "later", 3)]
    events(device)
    operator.send_candidates(0, "AliceU", (CANDIDATE,), end=False, now=2.0, wall=WALL)
    give(device, sent(operator)[0].jws, now=2.0)
    assert [type(event) for event in events(device)] == [CandidatesReceived]
    assert not operator.ended
    assert not device.ended


def test_host_16_a_storm_of_restarts_is_limited_to_a_burst_of_5_and_one_a_second() -> None:
    _, device = established_pair()
    for gen in range(1, 101):
        give(device, message(Offer(make_sdp("AliceR")), gen=gen, seq=gen), now=1.0)
    assert len(events(device)) == 5
    assert device.drops["restart-rate"] == 95
    # What the limit dropped is not used up: its copy is taken.
    give(device, message(Offer(make_sdp("AliceR")), gen=100, seq=100), now=2.0)
    assert [event.gen for event in events(device) if isinstance(event, OfferReceived)] == [100]


@pytest.mark.parametrize(
    "sdp",
    [
        make_sdp("AliceR", fingerprint=FINGERPRINT_B),
        make_sdp("AliceR", setup="active"),
        make_sdp("AliceR").replace("a=fingerprint", "a=x"),
    ],
)
def test_a_restart_that_changes_fingerprint_or_role_is_refused(sdp: str) -> None:
    operator, device = established_pair()
    operator.offer(sdp, now=1.0, wall=WALL)
    (offer,) = sent(operator)
    give(device, offer.jws, now=1.0)
    assert (events(device), device.drops.snapshot()) == ([], {"restart-changes-dtls": 1})
    (reject,) = sent(device)
    give(operator, reject.jws, now=1.0)
    assert events(operator) == [
        OfferRejected(operator.id, 1, "unsupported", "a restart keeps the DTLS fingerprint and role", None)
    ]
    assert not device.ended


@pytest.mark.parametrize("setup", ["actpass", "passive"])
def test_a_restart_says_actpass_or_the_present_role(setup: str) -> None:
    operator, device = established_pair()
    operator.offer(make_sdp("AliceR", setup=setup), now=1.0, wall=WALL)
    give(device, sent(operator)[0].jws, now=1.0)
    assert [type(event) for event in events(device)] == [OfferReceived]


def test_an_answer_to_a_restart_that_changes_the_fingerprint_is_dropped() -> None:
    operator, device = established_pair()
    operator.offer(make_sdp("AliceR"), now=1.0, wall=WALL)
    offer = sent(operator)[0].jws
    give(operator, device_message(Answer(make_sdp("DevRst1", setup="active")), 1, gen=1, re=digest(offer, ALICE_KEY)))
    assert (events(operator), operator.drops.snapshot()) == ([], {"restart-changes-dtls": 1})
    assert device.drops.total == 0


def test_rejects_go_at_most_once_a_second_and_a_later_copy_gets_the_one_kept_back() -> None:
    _, device = established_pair()
    bad = make_sdp("AliceR", fingerprint=FINGERPRINT_B)
    first = message(Offer(bad), gen=1, seq=1)
    second = message(Offer(bad), gen=2, seq=2)
    give(device, first, now=1.0)
    give(device, second, now=1.5)
    assert (len(sent(device)), device.drops["reject-rate"]) == (1, 1)
    give(device, second, now=1.9)
    assert sent(device) == []
    give(device, second, now=2.0)
    (reject,) = sent(device)
    assert read_claims(reject.jws)["re"] == digest(second, ALICE_KEY)


def test_offers_of_generation_0_are_refused_on_the_channel() -> None:
    _, device, offer = started()
    device.answer(0, DEVICE_SDP, wall=WALL)
    sent(device)
    give(device, offer, road="channel")
    assert (sent(device), device.drops.snapshot()) == ([], {"first-offer-on-channel": 1})


def test_an_operator_takes_no_first_offer() -> None:
    operator, _ = established_pair()
    give(operator, device_message(Offer(DEVICE_SDP), 5, nonce="n"))
    assert (events(operator), operator.drops.snapshot()) == ([], {"lower-generation": 1})


def test_own_offers_that_make_no_sense() -> None:
    operator, device = make_pair()
    with pytest.raises(LocalProtocolError):
        device.offer(DEVICE_SDP, now=0.0, wall=WALL, nonce="n")
    with pytest.raises(LocalProtocolError):
        operator.offer(DEVICE_SDP, now=0.0, wall=WALL)
    operator.bye("done", wall=WALL)
    with pytest.raises(LocalProtocolError):
        operator.offer(DEVICE_SDP, now=0.0, wall=WALL, nonce="n")


def test_answering_an_offer_that_no_longer_stands_says_so() -> None:
    _, device = established_pair()
    give(device, message(Offer(make_sdp("AliceR")), gen=1, seq=1), now=1.0)
    give(device, message(Offer(make_sdp("AliceS")), gen=2, seq=2), now=1.0)
    assert not device.answer(1, DEVICE_SDP, wall=WALL)
    assert device.answer(2, make_sdp("DevRst2", setup="active", fingerprint=FINGERPRINT_B), wall=WALL)
    assert [read_claims(s.jws)["gen"] for s in sent(device)] == [2]


# The end


def test_bye_ends_both_sides_once() -> None:
    ended: list[SessionId] = []
    operator, device = established_pair()
    device._on_end = ended.append
    operator.bye("done", "finished", wall=WALL)
    operator.bye("done", "again", wall=WALL)
    (bye,) = sent(operator)
    assert bye.road == "both"
    give(device, bye.jws, road="channel")
    give(device, bye.jws, road="mqtt")
    assert events(device) == [ByeReceived(device.id, "done", "finished")]
    assert (device.ended, device.next_timeout(), ended) == (True, None, [device.id])
    assert device.drops.snapshot() == {"session-ended": 1}
    device.bye("done", wall=WALL)
    assert sent(device) == []


def test_inputs_after_the_end_change_nothing() -> None:
    _, device = established_pair()
    device.bye("shutdown", wall=WALL)
    sent(device)
    give(device, message(Offer(make_sdp("AliceR")), gen=1, seq=1))
    device.send_candidates(0, "DeviceU", (CANDIDATE,), end=True, now=0.0, wall=WALL)
    assert not device.answer(1, DEVICE_SDP, wall=WALL)
    found: list[Event] = events(device)
    assert (found, sent(device), device.next_timeout()) == ([], [], None)
    assert device.id.sid == SID


def test_the_cached_answer_goes_by_the_channel_where_the_copy_came_by_it() -> None:
    _, device = established_pair()
    restart = message(Offer(make_sdp("AliceR")), gen=1, seq=1)
    give(device, restart, now=1.0)
    device.answer(1, make_sdp("DevRst1", setup="active", fingerprint=FINGERPRINT_B), wall=WALL)
    (answer,) = sent(device)
    give(device, restart, now=1.1, road="channel")
    (copy,) = sent(device)
    assert (copy.road, copy.jws) == ("channel", answer.jws)


def test_candidates_of_a_rejected_restart_are_not_delivered() -> None:
    _, device = established_pair()
    give(device, message(Offer(make_sdp("AliceR")), gen=1, seq=1), now=1.0)
    device.reject(1, Reject("busy"), now=1.0, wall=WALL)
    events(device)
    give(device, message(Candidates("AliceR", (CANDIDATE,)), gen=1, seq=2), now=1.1)
    device.handle_timeout(now=6.1, wall=WALL)
    assert (events(device), device.drops.snapshot()) == ([], {"held-expired": 1})


def test_host_25_a_message_that_another_trusted_key_signed_is_not_the_sessions() -> None:
    _, device = established_pair()
    forged = message(Bye("done"), key=MALLORY_KEY, seq=1)
    device.receive(verify(decode(forged), MALLORY_KEY.public), "mqtt", now=1.0, wall=WALL)
    assert (device.ended, device.drops.snapshot()) == (False, {"foreign-session": 1})
