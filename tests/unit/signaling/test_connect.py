from __future__ import annotations

import pytest

from edgeice.errors import LocalProtocolError
from edgeice.sansio import Entropy, Event
from edgeice.signaling import (
    AnswerReceived,
    ByeReceived,
    Connector,
    ConnectorState,
    DeviceKeyPresented,
    DeviceSaidAway,
    NothingHeard,
    OfferNeeded,
    OfferReceived,
    OfferRejected,
    OperatorFailed,
    Party,
    PrivateKey,
    PublicKey,
    PublishInfo,
    SendSignal,
    SignalAction,
    State,
    Status,
    sign_info,
)
from edgeice.signaling.messages import Answer, Bye, Offer, Reject
from tests.unit.signaling.kit import (
    ALICE,
    ALICE_KEY,
    DEVICE,
    DEVICE_KEY,
    FINGERPRINT_B,
    MALLORY_KEY,
    WALL,
    body_of,
    digest,
    make_device,
    make_info,
    make_sdp,
    make_sid,
    message,
    read_claims,
)

DEVICE_SDP = make_sdp("DeviceU", setup="active", fingerprint=FINGERPRINT_B)


def make_connector(pinned: PublicKey | None = DEVICE_KEY.public, timeout: float = 10.0) -> Connector:
    connector = Connector(
        me=ALICE,
        key=ALICE_KEY,
        device=DEVICE,
        pinned=pinned,
        want=("shell",),
        entropy=Entropy.seeded(3),
        timeout=timeout,
    )
    connector.start(now=0.0)
    return connector


def info(*, key: PrivateKey = DEVICE_KEY, device: Party = DEVICE, **changes: object) -> bytes:
    return sign_info(device, make_info(key=key.public, **changes), key, iat=WALL)


def taken(connector: Connector) -> list[Event]:
    found: list[Event] = []
    while (event := connector.poll_event()) is not None:
        found.append(event)
    return found


def acts(connector: Connector) -> list[SignalAction]:
    found: list[SignalAction] = []
    while (action := connector.poll_action()) is not None:
        found.append(action)
    return found


def signals(connector: Connector) -> list[bytes]:
    return [action.jws for action in acts(connector) if isinstance(action, SendSignal)]


READY = Status(State.READY, 5)


def offered(
    connector: Connector, *, now: float = 0.0, nonce: str = "nonce-one", status: Status | None = READY
) -> bytes:
    """Bring it to its first offer."""
    connector.receive_info(info(nonce=nonce))
    if status is not None:
        connector.receive_status(status.encode())
    taken(connector)
    connector.offer(make_sdp("AliceU"), now=now, wall=WALL)
    (jws,) = signals(connector)
    return jws


def reply(body: Answer | Reject | Bye, to: bytes, *, seq: int = 0) -> bytes:
    sid = read_claims(to)["sid"]
    assert isinstance(sid, str)
    re = None if isinstance(body, Bye) else digest(to, ALICE_KEY)
    return message(body, key=DEVICE_KEY, iss=DEVICE, aud=ALICE, sid=sid, seq=seq, re=re)


def give(connector: Connector, jws: bytes, *, now: float) -> None:
    connector.receive(DEVICE, jws, now=now, wall=WALL)


def run(connector: Connector, until: float) -> list[tuple[float, str]]:
    """Wake the machine when it asks; the times and kinds of what comes of it."""
    log: list[tuple[float, str]] = []
    while (at := connector.next_timeout()) is not None and at <= until:
        connector.handle_timeout(now=at, wall=WALL)
        log += [(at, str(read_claims(jws)["t"])) for jws in signals(connector)]
        log += [(at, type(event).__name__) for event in taken(connector)]
    return log


def test_the_way_to_a_pinned_device() -> None:
    connector = make_connector()
    assert connector.next_timeout() == 1.0
    connector.receive_info(info())
    (needed,) = taken(connector)
    assert isinstance(needed, OfferNeeded)
    assert (needed.retry, needed.session.peer, needed.session.kid) == (False, DEVICE, DEVICE_KEY.public.kid)
    connector.offer(make_sdp("AliceU"), now=1.0, wall=WALL)
    (offer,) = signals(connector)
    claims = read_claims(offer)
    assert (claims["sid"], claims["nonce"], claims["gen"], claims["seq"]) == (needed.session.sid, "nonce-one", 0, 0)
    assert body_of(offer) == {"sdp": make_sdp("AliceU"), "want": ["shell"]}
    give(connector, reply(Answer(DEVICE_SDP), offer), now=1.1)
    assert taken(connector) == [AnswerReceived(needed.session, 0, DEVICE_SDP)]
    assert (connector.state, connector.next_timeout()) == (ConnectorState.ESTABLISHED, None)


def test_first_contact_asks_about_the_key() -> None:
    connector = make_connector(pinned=None)
    connector.receive_info(info(nonce="old"))
    assert taken(connector) == [DeviceKeyPresented(DEVICE, DEVICE_KEY.public)]
    assert connector.next_timeout() is None, "the person takes their time"
    connector.receive_info(info(nonce="new"))
    connector.receive_info(info(key=MALLORY_KEY))
    assert (taken(connector), connector.drops.snapshot()) == ([], {"changed-key": 1})
    with pytest.raises(LocalProtocolError):
        connector.accept_key(MALLORY_KEY.public)
    connector.accept_key(DEVICE_KEY.public)
    assert [type(event) for event in taken(connector)] == [OfferNeeded]
    connector.offer(make_sdp("AliceU"), now=60.0, wall=WALL)
    assert read_claims(signals(connector)[0])["nonce"] == "new"


def test_a_refused_key_ends_the_attempt_in_silence() -> None:
    connector = make_connector(pinned=None)
    connector.receive_info(info())
    connector.close("done", wall=WALL)
    assert (connector.state, acts(connector), connector.next_timeout()) == (ConnectorState.OVER, [], None)


def test_a_changed_key_is_refused() -> None:
    connector = make_connector()
    connector.receive_info(info(key=MALLORY_KEY))
    (failed,) = taken(connector)
    assert isinstance(failed, OperatorFailed)
    assert (failed.kind, failed.key, acts(connector)) == ("changed-key", MALLORY_KEY.public, [])


def test_a_forged_info_after_the_offer_is_noise() -> None:
    connector = make_connector()
    offer = offered(connector)
    connector.receive_info(info(key=MALLORY_KEY, epoch=99))
    assert (taken(connector), connector.drops.snapshot()) == ([], {"changed-key": 1})
    give(connector, reply(Answer(DEVICE_SDP), offer), now=0.1)
    assert [type(event) for event in taken(connector)] == [AnswerReceived]


@pytest.mark.parametrize("payload", [b"", b"\xff", b"{}", info(device=Party.device("lab", "pi18"))])
def test_host_24_garbage_and_foreign_infos_are_dropped(payload: bytes) -> None:
    connector = make_connector()
    connector.receive_info(payload)
    connector.receive_status(payload)
    assert (taken(connector), connector.state) == ([], ConnectorState.WAITING_FOR_INFO)
    assert connector.drops.total == 2


def test_without_an_info_it_says_so_within_2_seconds_and_waits_5() -> None:
    connector = make_connector()
    assert run(connector, 100.0) == [(1.0, "DeviceNotSeen"), (5.0, "OperatorFailed")]
    assert connector.next_timeout() is None


def test_silence_is_said_after_5_seconds_and_the_attempt_given_up_after_10() -> None:
    connector = make_connector()
    offered(connector, now=2.0)
    connector.handle_timeout(now=2.9, wall=WALL)
    assert run(connector, 6.9) == [(3.0, "offer"), (4.0, "offer"), (6.0, "offer")]
    connector.handle_timeout(now=7.0, wall=WALL)
    assert taken(connector) == [NothingHeard(ALICE_KEY.public.fingerprint)]
    # The device may hold a slot for an answer that got lost.
    assert run(connector, 100.0) == [(12.0, "bye"), (12.0, "OperatorFailed")]
    assert connector.state is ConnectorState.OVER


def test_a_short_timeout_leaves_no_time_to_speak_of_silence() -> None:
    connector = make_connector(timeout=3.0)
    offered(connector)
    assert [kind for _, kind in run(connector, 100.0)] == ["offer", "offer", "bye", "OperatorFailed"]


def test_host_24_a_restart_before_the_first_answer_waits_for_it() -> None:
    connector = make_connector()
    offer = offered(connector)
    sid = str(read_claims(offer)["sid"])
    restart = message(
        Offer(make_sdp("DeviceR", fingerprint=FINGERPRINT_B)),
        key=DEVICE_KEY,
        iss=DEVICE,
        aud=ALICE,
        sid=sid,
        gen=1,
        seq=1,
    )
    give(connector, restart, now=1.0)
    assert (taken(connector), connector.drops.snapshot()) == ([], {"early-restart": 1})
    give(connector, reply(Answer(DEVICE_SDP), offer), now=2.0)
    give(connector, restart, now=2.5)
    assert [type(event) for event in taken(connector)] == [AnswerReceived, OfferReceived]
    assert connector.state is ConnectorState.ESTABLISHED


def test_host_24_a_device_that_only_restarts_is_given_up_like_one_that_says_nothing() -> None:
    connector = make_connector()
    sid = str(read_claims(offered(connector))["sid"])
    restart = message(Offer(make_sdp("DeviceR")), key=DEVICE_KEY, iss=DEVICE, aud=ALICE, sid=sid, gen=1, seq=1)
    give(connector, restart, now=1.0)
    run(connector, 60.0)
    assert connector.state is ConnectorState.OVER


def test_a_reject_is_final() -> None:
    connector = make_connector()
    offer = offered(connector)
    give(connector, reply(Reject("unauthorized", "not allowed: shell"), offer), now=0.1)
    (failed,) = taken(connector)
    assert failed == OperatorFailed("rejected", "unauthorized", "not allowed: shell")
    assert (run(connector, 100.0), acts(connector)) == ([], [])


@pytest.mark.parametrize("info_first", [True, False])
def test_a_stale_nonce_is_retried_once_under_a_new_sid(info_first: bool) -> None:
    connector = make_connector()
    first = offered(connector)
    fresh = info(nonce="nonce-two", epoch=6)
    if info_first:
        connector.receive_info(fresh)
    give(connector, reply(Reject("stale-nonce"), first), now=0.1)
    if not info_first:
        assert (connector.state, connector.next_timeout()) == (ConnectorState.WAITING_FOR_NONCE, 5.1)
        connector.receive_info(info())
        assert taken(connector) == [], "the same nonce again is no news"
        connector.receive_info(fresh)
    (needed,) = taken(connector)
    assert isinstance(needed, OfferNeeded)
    assert needed.retry
    connector.offer(make_sdp("AliceV"), now=0.2, wall=WALL)
    (second,) = signals(connector)
    assert read_claims(second)["nonce"] == "nonce-two"
    assert read_claims(second)["sid"] != read_claims(first)["sid"]
    # What still comes for the first `sid` is of no session.
    give(connector, reply(Answer(DEVICE_SDP), first), now=0.3)
    assert (taken(connector), connector.drops.snapshot()) == ([], {"foreign-session": 1})
    give(connector, reply(Reject("stale-nonce"), second), now=0.4)
    (failed,) = taken(connector)
    assert isinstance(failed, OperatorFailed)
    assert (failed.kind, failed.code) == ("rejected", "stale-nonce")


def test_a_stale_nonce_without_a_new_info_fails_after_5_seconds() -> None:
    connector = make_connector()
    first = offered(connector)
    give(connector, reply(Reject("stale-nonce"), first), now=1.0)
    assert run(connector, 100.0) == [(6.0, "OperatorFailed")]


def test_an_info_with_a_lower_epoch_is_refused_within_one_run() -> None:
    connector = make_connector()
    offered(connector)
    connector.receive_info(info(epoch=4, nonce="replayed"))
    assert connector.drops.snapshot() == {"lower-epoch": 1}
    assert connector.info is not None
    assert connector.info.nonce == "nonce-one"
    connector.receive_info(info(epoch=5, nonce="nonce-two"))
    assert connector.info.nonce == "nonce-two"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (Status(State.LOST, 5), True),
        (Status(State.OFF, 5), True),
        (Status(State.LOST, 4), False),
        (Status(State.LOST, 6), True),
        (Status(State.READY, 5), False),
        (Status(State.SLEEPING, 5), False),
    ],
)
@pytest.mark.parametrize("status_first", [True, False])
def test_away_at_the_same_epoch_is_said_and_tried_anyway(status: Status, said: bool, status_first: bool) -> None:
    connector = make_connector()
    if status_first:
        connector.receive_status(status.encode())
    connector.receive_info(info())
    connector.receive_status(status.encode())
    found = taken(connector)
    assert [event for event in found if isinstance(event, DeviceSaidAway)] == [DeviceSaidAway(status.state)] * said
    assert any(isinstance(event, OfferNeeded) for event in found)


@pytest.mark.parametrize(
    ("status", "said"), [(None, True), (Status(State.READY, 4), True), (Status(State.READY, 5), False)]
)
def test_a_missing_or_outdated_status_is_said_within_2_seconds(status: Status | None, said: bool) -> None:
    connector = make_connector()
    offered(connector, status=status)
    found = [entry for entry in run(connector, 2.0) if entry[1] != "offer"]
    assert found == [(1.0, "DeviceSaidAway")] * said


def test_a_device_that_loses_its_broker_later_is_not_said_to_be_away() -> None:
    connector = make_connector()
    offer = offered(connector)
    give(connector, reply(Answer(DEVICE_SDP), offer), now=0.1)
    assert [type(event) for event in taken(connector)] == [AnswerReceived]
    connector.receive_status(Status(State.LOST, 5).encode())
    assert taken(connector) == []


@pytest.mark.parametrize(
    ("sender", "key", "reason"),
    [
        (Party.device("lab", "pi18"), DEVICE_KEY, "foreign-party"),
        (ALICE, DEVICE_KEY, "foreign-party"),
        (DEVICE, MALLORY_KEY, "jws-key"),
    ],
)
def test_host_25_answers_from_others_are_dropped(sender: Party, key: PrivateKey, reason: str) -> None:
    connector = make_connector()
    offer = offered(connector)
    sid = read_claims(offer)["sid"]
    assert isinstance(sid, str)
    forged = message(Answer(DEVICE_SDP), key=key, iss=DEVICE, aud=ALICE, sid=sid, re=digest(offer, ALICE_KEY))
    connector.receive(sender, forged, now=0.1, wall=WALL)
    assert (taken(connector), connector.drops.snapshot()) == ([], {reason: 1})


def test_an_unknown_sid_is_ignored_in_silence() -> None:
    # All processes of one operator share its topic.
    connector = make_connector()
    give(connector, message(Bye("done"), key=DEVICE_KEY, iss=DEVICE, aud=ALICE, sid=make_sid(9)), now=0.0)
    offered(connector)
    give(connector, message(Bye("done"), key=DEVICE_KEY, iss=DEVICE, aud=ALICE, sid=make_sid(9)), now=0.0)
    assert (taken(connector), acts(connector)) == ([], [])
    assert connector.drops.snapshot() == {"foreign-party": 1, "foreign-session": 1}


def test_a_bye_ends_the_attempt() -> None:
    connector = make_connector()
    offer = offered(connector)
    give(connector, reply(Bye("shutdown"), offer), now=0.1)
    assert [type(event) for event in taken(connector)] == [ByeReceived]
    assert (connector.state, run(connector, 100.0)) == (ConnectorState.OVER, [])
    give(connector, reply(Answer(DEVICE_SDP), offer, seq=1), now=0.2)
    connector.receive_channel("x", now=0.2, wall=WALL)
    assert (taken(connector), acts(connector)) == ([], [])


def test_closing_an_offered_session_says_bye() -> None:
    connector = make_connector()
    offered(connector)
    connector.close("done", "the person gave up", wall=WALL)
    connector.close("done", wall=WALL)
    (bye,) = signals(connector)
    assert body_of(bye) == {"code": "done", "reason": "the person gave up"}


def test_commands_out_of_turn_are_the_callers_fault() -> None:
    connector = make_connector()
    with pytest.raises(LocalProtocolError):
        connector.offer(make_sdp("AliceU"), now=0.0, wall=WALL)
    with pytest.raises(LocalProtocolError):
        connector.accept_key(DEVICE_KEY.public)


def test_a_real_device_that_changed_its_nonce_is_reached_at_the_second_attempt() -> None:
    device = make_device()
    connector = make_connector()
    connector.receive_info(info(nonce=device.nonce))
    device.connected(now=0.0)
    device.connected(now=0.0)
    kinds: list[str] = []
    for step in range(10):
        for event in taken(connector):
            kinds.append(type(event).__name__)
            if isinstance(event, OfferNeeded):
                connector.offer(make_sdp(f"Alice{step}"), now=0.1, wall=WALL)
        for jws in signals(connector):
            device.receive(ALICE, jws, now=0.1, wall=WALL)
        while (told := device.poll_event()) is not None:
            if isinstance(told, OfferReceived):
                session = device.session(told.session)
                assert session is not None
                session.answer(0, DEVICE_SDP, wall=WALL)
        while (action := device.poll_action()) is not None:
            if isinstance(action, PublishInfo):
                connector.receive_info(info(nonce=device.nonce, epoch=6))
            else:
                give(connector, action.jws, now=0.1)
    assert kinds == ["OfferNeeded", "OfferNeeded", "AnswerReceived"]
    assert OfferRejected.__name__ not in kinds
