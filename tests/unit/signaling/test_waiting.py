"""First offers that find no slot wait a moment for one, and operators that were refused ask again."""

from __future__ import annotations

from edgeice.signaling import (
    CandidatesReceived,
    ConnectorState,
    DeviceBusy,
    DeviceSignaling,
    OfferNeeded,
    OfferReceived,
    OfferRefused,
    OperatorFailed,
    OperatorLine,
    PrivateKey,
    PublishInfo,
    Reject,
    SessionId,
)
from edgeice.signaling.connect import INFO_TIME
from edgeice.signaling.messages import Bye, Candidates
from tests.unit.signaling.kit import (
    ALICE,
    ALICE_KEY,
    CANDIDATE,
    WALL,
    actions,
    body_of,
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
from tests.unit.signaling.test_connect import give, make_connector, offered, reply, run, signals, taken

OTHER_KEY = make_key(9)


def session_id(number: int, key: PrivateKey = ALICE_KEY) -> SessionId:
    return SessionId(ALICE, key.public.kid, make_sid(number))


def offer(device: DeviceSignaling, number: int, *, now: float = 0.0, key: PrivateKey = ALICE_KEY) -> bytes:
    """Give the device an offer."""
    jws = first_offer(device, sid=make_sid(number), key=key)
    device.receive(ALICE, jws, now=now, wall=WALL)
    return jws


def begun(device: DeviceSignaling) -> list[str]:
    """The sessions that began."""
    return [event.session.sid for event in events(device) if isinstance(event, OfferReceived)]


def drive(device: DeviceSignaling, until: float) -> list[float]:
    """Wake it when it asks; when it rejected something."""
    times: list[float] = []
    while (at := device.next_timeout()) is not None and at <= until:
        device.handle_timeout(now=at, wall=WALL)
        times += [at for each in sent(device) if body_of(each.jws)["code"] == "busy"]
    return times


# The device


def test_twenty_offers_at_once_begin_as_fast_as_the_sessions_before_are_set_up() -> None:
    device = make_device(max_sessions=24)
    for number in range(20):
        offer(device, number)
    order = begun(device)
    assert order == [make_sid(0), make_sid(1)]
    now = 0.0
    for number in range(20):
        now += 0.1
        device.proved(session_id(number))
        at = device.next_timeout()
        if number < 18:
            assert at == 0.0  # which is over: at once
        device.handle_timeout(now=now, wall=WALL)
        order += begun(device)
    assert order == [make_sid(number) for number in range(20)]
    assert (sent(device), device.drops.total, device.next_timeout()) == ([], 0, None)


def test_what_waits_in_vain_is_refused_one_a_second_then_forgotten() -> None:
    device = make_device(max_sessions=0)
    for number in range(10):
        offer(device, number)
    assert drive(device, 100.0) == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    refused = [event for event in events(device) if isinstance(event, OfferRefused)]
    assert [event.session.sid for event in refused] == [make_sid(number) for number in range(6)]
    assert device.drops.snapshot() == {"waited-in-vain": 4}
    assert device.next_timeout() is None


def test_a_device_without_a_free_session_says_so_in_its_document_once() -> None:
    device = make_device(max_sessions=1)
    for number in range(4):
        offer(device, number)
    device.proved(session_id(0))
    published: list[float] = []

    def wake(until: float) -> None:
        while (at := device.next_timeout()) is not None and at <= until:
            device.handle_timeout(now=at, wall=WALL)
            published.extend(at for each in actions(device) if isinstance(each, PublishInfo))

    wake(5.0)
    assert published == [4.0]
    device.receive(ALICE, message(Bye("done"), sid=make_sid(0), seq=1), now=5.1, wall=WALL)
    device.handle_timeout(now=5.1, wall=WALL)
    assert device.sessions == (session_id(3),)
    offer(device, 4, now=5.2)
    wake(9.2)
    assert published == [4.0, 9.2]


def test_a_slot_that_is_freed_late_is_given_to_whoever_could_not_be_refused_yet() -> None:
    device = make_device(max_sessions=1)
    for number in range(3):
        offer(device, number)
    device.proved(session_id(0))
    assert drive(device, 4.5) == [4.0]
    device.receive(ALICE, message(Bye("done"), sid=make_sid(0), seq=1), now=4.6, wall=WALL)
    device.handle_timeout(now=4.6, wall=WALL)
    assert device.sessions == (session_id(2),)


def test_candidates_and_the_goodbye_of_an_offer_that_waits() -> None:
    device = make_device(max_sessions=1)
    for number in range(3):
        offer(device, number)
    device.proved(session_id(0))
    for number in (1, 2):
        candidates = message(Candidates("AliceU", (CANDIDATE,)), sid=make_sid(number), seq=1)
        device.receive(ALICE, candidates, now=0.1, wall=WALL)
    copy = offer(device, 1, now=1.0)
    device.receive(ALICE, message(Bye("done"), sid=make_sid(1), seq=2), now=1.1, wall=WALL)
    device.receive(ALICE, copy, now=2.0, wall=WALL)
    events(device)
    device.receive(ALICE, message(Bye("done"), sid=make_sid(0), seq=1), now=3.0, wall=WALL)
    device.handle_timeout(now=3.0, wall=WALL)
    received = [event for event in events(device) if isinstance(event, OfferReceived | CandidatesReceived)]
    assert [(type(event), event.session) for event in received] == [
        (OfferReceived, session_id(2)),
        (CandidatesReceived, session_id(2)),
    ]
    assert device.drops.snapshot() == {"replayed": 1}


def test_a_keys_holder_does_not_crowd_out_the_others() -> None:
    lines = (OperatorLine("alice", key.public, ("shell",)) for key in (ALICE_KEY, OTHER_KEY))
    device = make_device(max_sessions=8, trust=trust(*lines))
    for number in range(40):
        offer(device, number)
    # Two begin, 24 wait, one is told so at once; for the others there is no reject left in this second.
    (busy,) = sent(device)
    assert (read_claims(busy.jws)["sid"], body_of(busy.jws)["code"]) == (make_sid(26), "busy")
    assert device.drops.snapshot() == {"reject-rate": 13}
    events(device)
    offer(device, 100, key=OTHER_KEY)
    assert begun(device) == [make_sid(100)]


def test_a_large_offer_does_not_wait() -> None:
    device = make_device(max_sessions=0)
    jws = first_offer(device, sdp=make_sdp("AliceU") + "a=x:" + "x" * 8192 + "\r\n")
    device.receive(ALICE, jws, now=0.0, wall=WALL)
    assert [body_of(each.jws)["code"] for each in sent(device)] == ["busy"]
    assert device.next_timeout() is None


def test_a_waiting_offer_whose_key_is_trusted_no_more_begins_nothing() -> None:
    device = make_device(max_sessions=1)
    offer(device, 0)
    device.proved(session_id(0))
    offer(device, 1)
    device.trust_changed(trust(OperatorLine("bob", OTHER_KEY.public)), now=1.0, wall=WALL)
    device.handle_timeout(now=1.0, wall=WALL)
    assert (device.sessions, device.drops.snapshot()) == ((), {"waited-in-vain": 1})


# The operator


def test_a_busy_device_is_asked_again_under_a_new_sid() -> None:
    connector = make_connector()
    first = offered(connector)
    give(connector, reply(Reject("busy", "all are in use", 2), first), now=1.0)
    (busy,) = taken(connector)
    assert isinstance(busy, DeviceBusy)
    assert (busy.reason, 2.0 <= busy.again_in <= 3.0) == ("all are in use", True)
    assert connector.state is ConnectorState.WAITING_FOR_ROOM
    assert connector.next_timeout() == 1.0 + busy.again_in
    assert run(connector, 4.0) == [(1.0 + busy.again_in, "OfferNeeded")]
    connector.offer(make_sdp("AliceV"), now=4.0, wall=WALL)
    (second,) = signals(connector)
    assert read_claims(second)["sid"] != read_claims(first)["sid"]
    # A stale nonce is another matter, which may follow.
    give(connector, reply(Reject("stale-nonce"), second), now=4.1)
    assert connector.next_timeout() == 4.1 + INFO_TIME


def test_a_busy_device_that_names_no_time_gets_a_second() -> None:
    connector = make_connector()
    give(connector, reply(Reject("busy"), offered(connector)), now=0.0)
    (busy,) = taken(connector)
    assert isinstance(busy, DeviceBusy)
    assert (busy.reason, 1.0 <= busy.again_in <= 1.5) == ("no session is free", True)


def test_a_busy_device_is_given_up_where_the_time_is_over_before_it_may_be_asked_again() -> None:
    connector = make_connector(timeout=10.0)
    give(connector, reply(Reject("busy", "all are in use", 30), offered(connector)), now=1.0)
    (failed,) = taken(connector)
    assert failed == OperatorFailed("rejected", "busy", "all are in use", 30)
    connector = make_connector(timeout=10.0)
    now, asked, jws = 0.0, 1, offered(connector)
    while True:
        give(connector, reply(Reject("busy", "all are in use", 2), jws), now=now)
        (event,) = taken(connector)
        if isinstance(event, OperatorFailed):
            break
        assert isinstance(event, DeviceBusy)
        now += event.again_in
        connector.handle_timeout(now=now, wall=WALL)
        (needed,) = taken(connector)
        assert isinstance(needed, OfferNeeded)
        connector.offer(make_sdp("AliceV"), now=now, wall=WALL)
        (jws,) = signals(connector)
        asked += 1
    assert 4 <= asked <= 5
    assert now < 10.0


def test_goodbye_while_a_busy_device_is_waited_for_asks_no_more() -> None:
    connector = make_connector()
    give(connector, reply(Reject("busy", "", 2), offered(connector)), now=1.0)
    taken(connector)
    connector.close("done", wall=WALL)
    assert (connector.next_timeout(), taken(connector)) == (None, [])
